// What client.d.ts promises about URLs and constructors.

import assert from "node:assert/strict"
import {test} from "node:test"

import {GroupHub} from "../../client.js"
import {FakeSocket, advance, last, page, plain, sockets, timers, turn, url} from "./fakes.mjs"

test("a relative URL belongs to the page, and http becomes ws", () => {
	page("https://example.com:8443/rooms/lobby?x=1#top")
	for (const [to, want] of [
		["/ws/chat/lobby", "wss://example.com:8443/ws/chat/lobby"],
		["ws", "wss://example.com:8443/rooms/ws"],
		["?room=a", "wss://example.com:8443/rooms/lobby?room=a"],
		["//other.example/ws", "wss://other.example/ws"],
		["http://other.example/ws", "ws://other.example/ws"],
		["https://other.example/ws#part", "wss://other.example/ws"],
		["wss://other.example/http", "wss://other.example/http"],
		[new URL("HTTPS://other.example/ws"), "wss://other.example/ws"],
	]) {
		plain({to})
		assert.equal(last().url, want)
	}
	page("http://example.com/")
	plain({to: "/ws"})
	assert.equal(last().url, "ws://example.com/ws")
})

test("a worker has a location and no document", () => {
	globalThis.location = {href: "https://example.com/js/worker.js"}
	plain({to: "/ws"})
	assert.equal(last().url, "wss://example.com/ws")
})

test("a worker made of a Blob is at home where it was made", () => {
	globalThis.location = {href: "blob:https://example.com/6c0f", protocol: "blob:"}
	plain({to: "/ws"})
	assert.equal(last().url, "wss://example.com/ws")
	plain({to: "ws?a=1"})
	assert.equal(last().url, "wss://example.com/ws?a=1")
	globalThis.location = {href: "blob:null/6c0f", protocol: "blob:"} // in a sandbox
	plain({to: "wss://example.com/ws"})
	assert.equal(last().url, "wss://example.com/ws")
	assert.throws(() => plain({to: "/ws"}), TypeError)
})

test("without a page an absolute URL does, and a relative one throws", () => {
	plain({to: "http://localhost:8080/ws"})
	assert.equal(last().url, "ws://localhost:8080/ws")
	const {listeners} = page("about:blank")
	timers.clear()
	delete globalThis.document
	assert.throws(() => plain({to: "/ws"}), TypeError)
	assert.throws(() => plain({to: "mailto:ann@example.com"}), SyntaxError)
	assert.equal(listeners.size + timers.size, 0, "and leaves nothing behind")
})

test("the global WebSocket is the default, and subprotocols are offered", () => {
	const original = globalThis.WebSocket
	globalThis.WebSocket = FakeSocket
	try {
		new GroupHub(url, {protocols: ["chat", "v2"]})
		assert.deepEqual(last().protocols, ["chat", "v2"])
		new GroupHub(url)
		assert.equal(last().protocols, undefined)
	} finally {
		globalThis.WebSocket = original
	}
})

test("a function is asked for the URL before each attempt", async () => {
	let n = 0
	for (const to of [() => `ws://h/${++n}`, async () => new URL(`http://h/${++n}`)]) {
		n = 0
		const {hub, calls} = plain({to})
		assert.equal(hub.state, "connecting")
		for (const want of [1, 2]) {
			await turn()
			assert.equal(last().url, `ws://h/${want}`)
			last().open()
			last().end()
			advance(250)
		}
		assert.deepEqual(calls.map(([type]) => type), ["open", "close", "open", "close"])
		hub.close()
		await turn()
		assert.equal(n, 3)
	}
})

test("a function that throws, rejects or knows no URL is a failed attempt", async () => {
	for (const to of [() => { throw new Error("no token") }, async () => { throw new Error("no token") }, () => "ws://", () => undefined]) {
		const {hub, closes} = plain({to})
		assert.deepEqual(closes(), [], "which is told when handlers have been added")
		await turn()
		assert.equal(closes().length, 1)
		assert.equal(closes()[0].code, 1006)
		assert.match(closes()[0].reason, /no token|URL/i)
		assert.equal(closes()[0].willReconnect, true)
		advance(250)
		await turn()
		assert.equal(closes().length, 2)
		hub.close()
		advance(60000)
		await turn()
		assert.equal(closes().length, 3)
	}
	assert.equal(sockets.length, 0)
})

test("an answer that comes too late makes no connection", async () => {
	const answers = []
	const {hub, closes} = plain({to: () => new Promise(resolve => answers.push(resolve)), timeout: 100})
	advance(100)
	assert.equal(closes()[0].reason, "timeout")
	advance(250)
	answers[0]("ws://h/old")
	answers[1]("ws://h/new")
	await turn()
	assert.deepEqual(sockets.map(socket => socket.url), ["ws://h/new"])
	last().end()
	advance(250)
	hub.close()
	answers[2]("ws://h/closed")
	await turn()
	assert.equal(sockets.length, 1)
})

test("a constructor that throws is a failed attempt", async () => {
	let forbidden = true
	class Picky extends FakeSocket {
		constructor(...args) {
			if (forbidden) throw Object.assign(new Error("The operation is insecure."), {name: "SecurityError"})
			super(...args)
		}
	}
	const {closes} = plain({WebSocket: Picky})
	assert.deepEqual(closes(), [])
	for (const n of [1, 2]) {
		await turn()
		assert.equal(closes().length, n)
		assert.deepEqual({...closes().at(-1), delay: 0}, {code: 1006, reason: "SecurityError: The operation is insecure.", willReconnect: true, delay: 0})
		advance(250)
	}
	await turn()
	forbidden = false
	advance(250)
	last().open()
})
