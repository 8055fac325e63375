// What client.d.ts promises about refusals, and about who decides what follows.

import assert from "node:assert/strict"
import {test} from "node:test"

import {FakeSocket, advance, connect, last, page, plain, resumes, sockets, timers, turn} from "./fakes.mjs"

// refuse has plain requests answered, and makes FakeSocket the platform's own. It returns
// what was asked for.
function refuse(answer) {
	const asked = []
	globalThis.WebSocket = FakeSocket
	globalThis.fetch = async (...args) => {
		asked.push(args)
		return answer()
	}
	return asked
}

test("a refusal that is final ends it", async () => {
	for (const status of [401, 403, 404, 410]) {
		const asked = refuse(() => new Response("session expired\n", {status}))
		const {hub, closes} = connect({to: "ws://h/ws?a=1"})
		last().end()
		assert.equal(closes()[0].willReconnect, true)
		await turn()
		assert.deepEqual(closes().slice(1), [{code: 4000 + status, reason: "session expired", willReconnect: false, delay: 0}])
		assert.equal(asked.length, 1)
		assert.equal(asked[0][0], "http://h/ws?a=1&resume=")
		assert.equal(asked[0][1].credentials, "include")
		assert.equal(hub.state, "closed")
		assert.equal(timers.size, 0)
	}
})

test("what is no clear refusal changes nothing", async () => {
	for (const answer of [
		() => new Response("", {status: 200}), () => new Response("", {status: 426}), () => new Response("", {status: 500}),
		() => new Response("", {status: 503}), () => { throw new TypeError("fetch failed") },
	]) {
		refuse(answer)
		const {closes} = connect()
		last().end()
		await turn()
		assert.equal(closes().length, 1)
		const before = sockets.length
		advance(250)
		assert.equal(sockets.length, before + 1)
	}
})

test("Retry-After is waited for", async () => {
	refuse(() => new Response("full", {status: 503, headers: {"Retry-After": "7"}}))
	const {hub} = connect()
	last().end()
	await turn()
	assert.equal(hub.state, "waiting")
	advance(6999)
	assert.equal(sockets.length, 1)
	advance(1)
	assert.equal(sockets.length, 2)
})

test("only an attempt that never opened is asked about, and an answer that comes late is not heard", async () => {
	const answers = []
	const asked = refuse(() => new Promise(resolve => answers.push(resolve)))
	const {closes} = connect()
	last().end()
	advance(250)
	last().open()
	answers[0](new Response("", {status: 401}))
	await turn()
	assert.equal(closes().length, 1)
	last().end()
	await turn()
	assert.equal(asked.length, 1)
})

test("the caller has the last word on what is final", async t => {
	const reported = []
	t.mock.method(console, "error", error => reported.push(error.message))
	for (const [retry, code, want] of [
		[() => true, 4401, true], [() => false, 1006, false], [() => undefined, 1006, true], [() => undefined, 1008, false],
		[() => { throw new Error("retry") }, 1006, true], [() => { throw new Error("retry") }, 4401, false],
	]) {
		const asked = []
		const {hub, closes} = connect({retry: (...args) => { asked.push(args); return retry() }})
		last().end(code, "why")
		assert.equal(closes()[0].willReconnect, want)
		assert.deepEqual(asked, [[code, "why"]])
		hub.close()
		assert.equal(closes().at(-1).willReconnect, false, "close is final whatever retry says")
	}
	assert.deepEqual(reported, ["retry", "retry"])
	refuse(() => new Response("", {status: 401}))
	const {closes} = connect({retry: code => code === 4401 || undefined})
	last().end()
	await turn()
	assert.equal(closes().length, 1)
	const before = sockets.length
	advance(250)
	assert.equal(sockets.length, before + 1)
})

test("a signal closes", () => {
	const controller = new AbortController()
	const {hub, closes} = connect({signal: controller.signal})
	last().open()
	controller.abort()
	assert.deepEqual(closes(), [{code: 1000, reason: "", willReconnect: false, delay: 0}])
	assert.deepEqual(last().closedWith, [1000])
	hub.reconnect()
	const late = connect({signal: controller.signal})
	assert.equal(late.hub.state, "closed")
	assert.throws(() => late.hub.send("x"), /closed/)
	late.hub.close()
	assert.equal(sockets.length, 1)
	assert.equal(timers.size, 0)
})

test("state and transport say where it stands", () => {
	const {hub} = connect()
	const stands = () => [hub.state, hub.transport]
	assert.deepEqual(stands(), ["connecting", undefined])
	last().open()
	assert.deepEqual(stands(), ["open", "websocket"])
	last().end()
	assert.deepEqual(stands(), ["waiting", undefined])
	advance(250)
	assert.deepEqual(stands(), ["connecting", undefined])
	hub.close()
	assert.deepEqual(stands(), ["closed", undefined])
})

test("reconnect connects now", () => {
	const {hub, calls, closes} = connect()
	hub.reconnect() // in place of an attempt
	assert.equal(sockets.length, 2)
	assert.deepEqual(closes(), [])
	last().end()
	hub.reconnect() // in place of a wait
	assert.equal(sockets.length, 3)
	advance(60000)
	hub.reconnect()
	last().open()
	last().receive({type: "tick", group: "g", id: "1"})
	const before = sockets.length, open = last()
	hub.reconnect() // in place of a connection
	assert.deepEqual(closes().at(-1), {code: 1006, reason: "reconnect", willReconnect: true, delay: 0})
	assert.deepEqual(open.closedWith, [undefined])
	advance(0)
	assert.equal(sockets.length, before + 1)
	assert.deepEqual(resumes(last()), ["g@1"])
	last().open()
	last().end(4401)
	calls.length = 0
	hub.reconnect() // after a login, say
	assert.equal(sockets.length, before + 2)
	assert.deepEqual(resumes(last()), ["g@1"], "with its positions")
	last().open()
	last().receive({type: "tick"})
	assert.deepEqual(calls.map(([type]) => type), ["open", "*"], "and its handlers")
	hub.close()
	advance(60000)
	assert.equal(sockets.length, before + 2)
})

test("reconnect is not for retry to forbid", () => {
	const {hub, closes} = connect({retry: () => false})
	last().open()
	hub.reconnect()
	assert.equal(closes().at(-1).willReconnect, true)
	advance(0)
	assert.equal(sockets.length, 2)
	last().end()
	assert.equal(closes().at(-1).willReconnect, false)
})

test("a close handler may reconnect", () => {
	const {online} = page()
	const {hub, calls} = connect({types: []})
	hub.on("close", ({willReconnect}) => willReconnect || hub.reconnect())
	hub.on("close", ({code}) => calls.push(code))
	last().open()
	last().end(4401)
	assert.deepEqual(calls, [4401])
	assert.equal(hub.state, "connecting")
	last().end()
	online()
	assert.equal(sockets.length, 3, "it hears from the page again")
})
