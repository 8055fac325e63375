// What client.d.ts promises about coming back.

import assert from "node:assert/strict"
import {test} from "node:test"

import {advance, connect, last, page, sockets, timers, world} from "./fakes.mjs"

test("it comes back after every close but 1000, 1008 and 4400 to 4499", () => {
	for (const code of [1000, 1008, 4400, 4401, 4499]) {
		const {hub, closes} = connect()
		last().open()
		last().end(code, "enough")
		assert.deepEqual(closes(), [{code, reason: "enough", willReconnect: false, delay: 0}])
		assert.equal(timers.size, 0)
		assert.throws(() => hub.send("x"), /closed/)
	}
	for (const code of [1001, 1005, 1006, 1007, 1009, 1011, 1012, 1013, 1015, 3000, 4000, 4399, 4500]) {
		const {closes} = connect()
		last().open()
		last().end(code, "later")
		assert.deepEqual(closes(), [{code, reason: "later", willReconnect: true, delay: 250}])
		const before = sockets.length
		advance(249)
		assert.equal(sockets.length, before)
		advance(1)
		assert.equal(sockets.length, before + 1)
		last().open()
	}
})

test("the delay is random between the shortest and a bound that doubles up to the longest", () => {
	for (const [value, want] of [
		[0, [250, 250, 250, 250, 250, 250, 250, 250, 250]],
		[0.5, [375, 625, 1125, 2125, 4125, 8125, 15125, 15125, 15125]],
		[1, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]],
	]) {
		world.random = value
		const {closes} = connect()
		for (const delay of want) {
			last().end()
			assert.equal(closes().at(-1).delay, delay)
			advance(delay)
		}
	}
})

test("the caller chooses the delays, and a thousand attempts later they are still numbers", () => {
	world.random = 1
	const {closes} = connect({minDelay: 10, maxDelay: 50})
	for (let i = 0; i < 2000; i++) {
		last().end()
		advance(closes().at(-1).delay)
	}
	assert.deepEqual(closes().slice(0, 4).map(close => close.delay), [20, 40, 50, 50])
	assert.equal(closes().at(-1).delay, 50)
	assert.equal(sockets.length, 2001)
})

test("the delays begin anew after a connection that outlived all of the server's timeouts", () => {
	world.random = 1
	const {closes} = connect()
	for (const [lasted, want] of [[0, 500], [5001, 1000], [20001, 2000], [29999, 4000], [30000, 500], [0, 1000]]) {
		last().open()
		advance(lasted)
		last().end()
		assert.equal(closes().at(-1).delay, want)
		advance(want)
	}
})

test("an attempt that takes too long is given up", () => {
	for (const [options, timeout] of [[{}, 20000], [{timeout: 100}, 100]]) {
		const {closes, calls} = connect(options)
		const first = last()
		advance(timeout - 1)
		assert.deepEqual(calls, [])
		advance(1)
		assert.deepEqual(closes(), [{code: 1006, reason: "timeout", willReconnect: true, delay: 250}])
		assert.deepEqual(first.closedWith, [undefined])
		advance(250)
		assert.notEqual(last(), first)
		last().open()
		advance(timeout)
		assert.equal(closes().length, 1, "an open connection has no timeout")
	}
})

test("an error that no close follows counts as one, and one that a close follows does not", () => {
	const {closes} = connect()
	last().onerror({})
	assert.deepEqual(closes(), [])
	advance(0)
	assert.deepEqual(closes(), [{code: 1006, reason: "", willReconnect: true, delay: 250}])
	advance(250)
	last().open()
	last().end(0)
	assert.equal(closes()[1].code, 1006)
	advance(1000)
	last().open()
	last().onerror({})
	last().end(4401, "logged out")
	advance(60000)
	assert.equal(closes().length, 3)
	assert.equal(closes()[2].code, 4401)
	assert.equal(sockets.length, 3)
})

test("it tries at once when the browser is online again, and patiently no more", () => {
	world.random = 1
	const {online} = page()
	const {closes} = connect()
	for (const delay of [500, 1000, 2000]) {
		last().end()
		assert.equal(closes().at(-1).delay, delay)
		if (delay < 2000) advance(delay)
	}
	online()
	assert.equal(sockets.length, 4)
	last().end() // it was a little too early
	assert.equal(closes().at(-1).delay, 500)
	online()
	const hanging = last()
	online()
	assert.notEqual(last(), hanging, "an attempt from before is not waited for")
	assert.deepEqual(hanging.closedWith, [])
	hanging.open()
	hanging.end()
	assert.equal(closes().length, 4, "nor heard")
	last().open()
	online()
	assert.equal(last().closedWith, undefined, "a good connection stays")
	advance(60000)
	assert.equal(sockets.length, 6, "and no attempt is left over")
})

test("it tries at once when the page becomes visible", () => {
	world.random = 1
	const {visibility} = page()
	const {closes} = connect()
	visibility("visible")
	assert.equal(sockets.length, 1, "not while an attempt is under way")
	last().end()
	visibility("hidden")
	assert.equal(sockets.length, 1)
	visibility("visible")
	assert.equal(sockets.length, 2)
	last().end()
	assert.equal(closes().at(-1).delay, 1000, "the delays go on growing")
	visibility("visible")
	last().open()
	visibility("visible")
	assert.equal(sockets.length, 3)
})

test("when the browser goes offline the connection counts as lost", () => {
	const {offline, online} = page()
	const {hub, closes, calls} = connect()
	last().open()
	const first = last()
	offline()
	assert.deepEqual(closes(), [{code: 1006, reason: "offline", willReconnect: true, delay: 250}])
	assert.deepEqual(first.closedWith, [undefined])
	assert.throws(() => hub.send("x"))
	offline()
	first.receive({type: "late"})
	first.end(1000)
	assert.equal(calls.length, 2, "what the old connection says is not heard")
	advance(250) // the server may be on this machine
	assert.equal(sockets.length, 2)
	online()
	assert.equal(sockets.length, 3)
	last().open()
	assert.deepEqual(calls.at(-1), ["open"])
})

test("when the page is left the connection counts as lost, and comes back with the page", () => {
	const {leave, visibility} = page()
	const {closes} = connect()
	last().open()
	const first = last()
	leave()
	leave()
	assert.deepEqual(closes(), [{code: 1006, reason: "pagehide", willReconnect: true, delay: 250}])
	assert.deepEqual(first.closedWith, [undefined])
	assert.equal(sockets.length, 1)
	visibility("visible")
	assert.equal(sockets.length, 2)
})

const heartbeat = {type: "grouphub.heartbeat"}

test("it asks for heartbeats, within the server's bounds", () => {
	for (const [option, want] of [[undefined, "25"], [1, "5"], [7500, "7.5"], [1e9, "300"], [0, null], [-1, null]]) {
		connect({heartbeat: option, resume: false})
		assert.equal(new URL(last().url).searchParams.get("heartbeat"), want)
	}
	connect({to: "ws://h/ws?a=b%20c", heartbeat: undefined})
	assert.equal(last().url, "ws://h/ws?a=b%20c&heartbeat=25&resume=")
})

test("two and a half intervals of silence are the end of a connection", () => {
	const {calls, closes} = connect({heartbeat: 10000})
	const socket = last()
	socket.open()
	for (const message of [heartbeat, "text", {type: "tick"}, heartbeat]) {
		advance(24999)
		socket.receive(message)
	}
	assert.deepEqual(calls.map(([type]) => type), ["open", "message", "*"], "handlers hear of no heartbeat")
	advance(24999)
	assert.deepEqual(closes(), [])
	advance(1)
	assert.deepEqual(closes(), [{code: 1006, reason: "silence", willReconnect: true, delay: 250}])
	assert.deepEqual(socket.closedWith, [undefined])
	advance(250)
	assert.notEqual(last(), socket)
})

test("one interval is enough when the page is visible, thawed or online again", () => {
	for (const event of ["visible", "resume", "online"]) {
		const browser = page()
		const {hub, closes} = connect({heartbeat: 10000})
		const fire = () => event === "visible" ? browser.visibility("visible") : browser[event]()
		last().open()
		advance(3000)
		fire()
		advance(9999)
		last().receive(heartbeat)
		advance(24999)
		last().receive(heartbeat)
		advance(5000)
		fire()
		for (let i = 0; i < 9; i++) {
			advance(1000)
			fire() // which is no reason to wait longer
		}
		assert.deepEqual(closes(), [])
		advance(1000)
		assert.equal(closes()[0].reason, "silence", event)
		hub.close()
	}
})

test("without heartbeats silence means nothing", () => {
	const {visibility} = page()
	const {closes} = connect()
	last().open()
	visibility("visible")
	advance(1e9)
	assert.deepEqual(closes(), [])
})
