// What client.d.ts promises about sending and closing.

import assert from "node:assert/strict"
import {test} from "node:test"

import {advance, connect, last, page, sockets, timers} from "./fakes.mjs"

test("strings and bytes go as they are, the rest as JSON", () => {
	const {hub} = connect()
	last().open()
	const buffer = new ArrayBuffer(2)
	const asTheyAre = ["text", "", buffer, new Uint8Array(buffer), new DataView(buffer), new Blob(["x"])]
	for (const value of asTheyAre) hub.send(value)
	assert.ok(asTheyAre.every((value, i) => last().sent[i] === value))
	last().sent = []
	for (const value of [{text: "hi"}, [1], 7, true, null, new Date(0)]) hub.send(value)
	assert.deepEqual(last().sent, ['{"text":"hi"}', "[1]", "7", "true", "null", '"1970-01-01T00:00:00.000Z"'])
	for (const value of [undefined, () => {}, Symbol("s"), 1n]) assert.throws(() => hub.send(value), TypeError)
	assert.equal(last().sent.length, 6)
})

test("without a connection send throws", () => {
	const {hub} = connect()
	const refused = () => assert.throws(() => hub.send("x"), {message: "grouphub: send: not connected, and 0 messages wait"})
	refused()
	last().open()
	hub.send("sent")
	last().readyState = 2 // the server has begun to close
	refused()
	last().end()
	refused()
	advance(250)
	refused()
	last().open()
	assert.deepEqual(last().sent, [])
})

test("a queue keeps messages in order, as they were, up to its size", () => {
	const {hub, calls} = connect({queue: 4})
	hub.on("open", () => hub.send("from the handler"))
	const value = {n: 1}
	hub.send(value)
	value.n = 2
	last().end()
	hub.send("two")
	advance(250)
	hub.send("three")
	last().open()
	assert.deepEqual(calls.at(-1), ["open"])
	assert.deepEqual(last().sent, [])
	advance(499)
	assert.deepEqual(last().sent, [], "they wait until the connection has been open for a moment")
	advance(1)
	assert.deepEqual(last().sent, ['{"n":1}', "two", "three", "from the handler"])
	hub.send("at once")
	assert.equal(last().sent.at(-1), "at once")
	advance(60000)
	assert.equal(last().sent.length, 5, "each is sent once")
})

test("a full queue refuses more, and gives way once there is a connection", () => {
	const {hub} = connect({queue: 2})
	hub.send("one")
	hub.send("two")
	assert.throws(() => hub.send("three"), {message: "grouphub: send: not connected, and 2 messages wait"})
	assert.throws(() => hub.send(undefined), TypeError)
	last().open()
	hub.send("three")
	assert.deepEqual(last().sent, ["one", "two", "three"])
})

test("what waits is not given to a connection that ends at once", () => {
	const {hub} = connect({queue: 3})
	hub.send("one")
	for (const end of [() => last().end(1013), () => { last().readyState = 2; advance(500); last().end() }]) {
		last().open()
		advance(400)
		end()
		assert.deepEqual(last().sent, [])
		advance(1000)
	}
	hub.send("two")
	last().open()
	advance(500)
	assert.deepEqual(last().sent, ["one", "two"])
})

test("what waits at the last close is gone", () => {
	const {hub} = connect({queue: 3})
	hub.send("one")
	last().end(4403)
	assert.throws(() => hub.send("two"), {message: "grouphub: send: closed"})
	advance(60000)
	assert.equal(sockets.length, 1)
})

test("close is clean, said once, and for good", () => {
	const {listeners, online, offline, leave, visibility} = page()
	const {hub, calls, closes} = connect()
	const {length} = calls
	assert.equal(listeners.size, 5)
	last().open()
	hub.send("last words")
	hub.close()
	assert.deepEqual(last().closedWith, [1000])
	assert.deepEqual(closes(), [{code: 1000, reason: "", willReconnect: false, delay: 0}])
	hub.on("close", close => calls.push(["added after close", close]))
	hub.close()
	last().receive({type: "late"})
	last().end(1000)
	online()
	offline()
	leave()
	visibility("visible")
	advance(60000)
	assert.equal(calls.length, length + 2)
	assert.equal(sockets.length, 1)
	assert.equal(listeners.size, 0)
	assert.equal(timers.size, 0)
	assert.throws(() => hub.send("x"), {message: "grouphub: send: closed"})
})

test("close ends an attempt, and the wait for one", () => {
	for (const prepare of [() => {}, () => last().end()]) {
		const {hub, closes} = connect()
		prepare()
		const {length} = sockets
		hub.close()
		assert.equal(closes().at(-1).willReconnect, false)
		assert.equal(closes().at(-1).code, 1000)
		advance(60000)
		assert.equal(sockets.length, length)
	}
})

test("a handler may close, and none is called after that", () => {
	for (const type of ["open", "close", "message", "resync", "tick"]) {
		const {hub} = connect({types: []})
		const calls = []
		hub.on(type, () => hub.close())
		hub.on(type, () => calls.push(type))
		hub.on("close", close => calls.push(close.willReconnect))
		last().open()
		last().receive("text")
		last().receive({type: "resync", group: "g"})
		last().receive({type: "tick"})
		if (type === "close") last().end(1006)
		assert.deepEqual(calls, type === "close" ? ["close", false] : [false], type)
		advance(60000)
		assert.equal(last().closedWith?.[0], type === "close" ? undefined : 1000)
		assert.equal(timers.size, 0)
	}
})
