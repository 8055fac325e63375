// What client.d.ts promises about streams: when one takes a WebSocket's place, and that nobody
// notices.

import assert from "node:assert/strict"
import {beforeEach, test} from "node:test"

import "../../client.stream.js" // so that it need not be loaded while time stands still
import {advance, connect, last, page, sockets, timers, turn} from "./fakes.mjs"

let streams, posts // what was fetched, in order

// A FakeStream is a fetched event stream that the test writes.
class FakeStream {
	constructor(url, {headers, signal}) {
		Object.assign(this, {url, headers, signal})
		const {readable, writable} = new TransformStream()
		this.readable = readable
		this.writer = writable.getWriter()
		this.answer = new Promise((resolve, reject) => {
			this.resolve = resolve
			signal.addEventListener("abort", () => reject(signal.reason))
		})
		streams.push(this)
	}
	async open(token = "token") {
		this.resolve(new Response(this.readable, {headers: {"Content-Type": "text/event-stream"}}))
		await this.write(`event: grouphub.open\nretry: 3000\ndata: ${token}\n\n`)
	}
	async refuse(status, text, headers) {
		this.resolve(new Response(text, {status, headers}))
		await settle()
	}
	async write(text) {
		this.writer.write(typeof text === "string" ? new TextEncoder().encode(text) : text)
		await settle()
	}
	async end() {
		this.writer.close()
		await settle()
	}
}

// settle lets all that follows from promises happen.
async function settle() {
	for (let i = 0; i < 10; i++) await turn()
}

const lastStream = () => streams.at(-1)

beforeEach(() => {
	streams = []
	posts = []
	globalThis.fetch = (url, options) => {
		if (options?.method !== "POST") return new FakeStream(url, options).answer
		return new Promise((resolve, reject) => {
			posts.push({
				url, ...options, reject,
				answer: async (status = 204) => {
					resolve(new Response(status === 204 ? null : "why", {status}))
					await settle()
				},
			})
			options.signal.addEventListener("abort", () => reject(options.signal.reason))
		})
	}
})

// openStream returns a client with an open stream.
async function openStream(options = {}) {
	const client = connect({transport: "stream", types: ["open", "close", "message", "*"], ...options})
	await settle()
	await lastStream().open()
	return client
}

// fail has the current WebSocket fail, and the next attempt begin.
async function fail() {
	last().end()
	await settle()
	advance(250)
	await settle()
}

test("a stream looks like a WebSocket to handlers", async () => {
	const {hub, calls} = await openStream({to: "ws://h/ws?a=1", heartbeat: 25000, protocols: ["chat", "grouphub.bearer.abc"]})
	assert.deepEqual([hub.state, hub.transport], ["open", "stream"])
	const {url, headers} = lastStream()
	assert.equal(url, "http://h/ws?a=1&heartbeat=25&resume=")
	assert.deepEqual(headers, {Authorization: "Bearer abc", Accept: "text/event-stream"})
	await lastStream().write('data: {"type":"chat","group":"g","id":"1","data":{"text":"hü"}}\n\ndata: <p>one</p>\ndata: two\n\n')
	await lastStream().write("event: grouphub.binary\ndata: AAH/\n\nevent: named\ndata: three\nid: x\n\n:\n\nevent: grouphub.position\ndata: \nid: x\n\n")
	assert.deepEqual(calls.map(([type, data]) => [type, data]), [
		["open", undefined], ["*", {text: "hü"}], ["message", "<p>one</p>\ntwo"], ["message", new Uint8Array([0, 1, 255]).buffer],
		["message", "three"],
	])
	assert.deepEqual(hub.positions, {g: "1"})
	hub.close()
	assert.ok(lastStream().signal.aborted)
	assert.deepEqual(calls.at(-1), ["close", {code: 1000, reason: "", willReconnect: false, delay: 0}])
	await settle()
	assert.equal(calls.filter(([type]) => type === "close").length, 1)
	assert.equal(timers.size, 0)
})

test("blocks may come in pieces, and characters too", async () => {
	const {calls} = await openStream()
	const bytes = new TextEncoder().encode("data: ä\n\ndata: two\ndata: \n\n\ndata: three\n\n")
	for (const byte of bytes) await lastStream().write(new Uint8Array([byte]))
	assert.deepEqual(calls.slice(1).map(([, data]) => data), ["ä", "two\n", "three"])
})

test("a stream's close is a close, and its end is one too", async () => {
	const {hub, closes} = await openStream()
	await lastStream().write('event: grouphub.close\nretry: 4321\ndata: {"code":1013,"reason":"too slow"}\n\n')
	assert.deepEqual(closes(), [{code: 1013, reason: "too slow", willReconnect: true, delay: 4321}], "and the server says when to come back")
	advance(4321)
	await settle()
	await lastStream().open()
	await lastStream().end()
	assert.deepEqual({...closes()[1], delay: 0}, {code: 1006, reason: "", willReconnect: true, delay: 0})
	advance(250)
	await settle()
	await lastStream().open()
	await lastStream().write('event: grouphub.close\nretry: 2000\nid: !4401\ndata: {"code":4401,"reason":"logged out"}\n\n')
	assert.deepEqual(closes()[2], {code: 4401, reason: "logged out", willReconnect: false, delay: 0})
	assert.equal(hub.state, "closed")
	assert.equal(streams.length, 3)
})

test("refusals of a stream are seen", async () => {
	for (const [status, code] of [[401, 4401], [403, 4403], [404, 4404], [410, 4410], [426, 1006], [500, 1006]]) {
		const {closes, hub} = connect({transport: "stream"})
		await settle()
		await lastStream().refuse(status, "why\n")
		assert.deepEqual(closes().map(({code, reason, willReconnect}) => [code, reason, willReconnect]), [[code, "why", code === 1006]])
		hub.close()
	}
	const {closes} = connect({transport: "stream"})
	await settle()
	await lastStream().refuse(503, "full", {"Retry-After": "9"})
	assert.equal(closes()[0].delay, 9000)
})

test("comments, and parts of a large event, show that a stream is alive", async () => {
	const {calls, closes} = await openStream({heartbeat: 10000})
	for (const piece of [":\n\n", "data: a large ", "event", "\n\n"]) {
		advance(24000)
		await lastStream().write(piece)
	}
	assert.deepEqual(calls.slice(1), [["message", "a large event"]])
	advance(25000)
	assert.deepEqual(closes().map(close => close.reason), ["silence"])
	assert.ok(lastStream().signal.aborted)
})

test("messages go out one at a time, in order, each with its number", async () => {
	const {hub} = await openStream({to: "ws://h/ws?a=1", heartbeat: 25000})
	hub.send({text: "one"})
	hub.send(new Uint8Array([2]))
	hub.send("three")
	assert.equal(posts.length, 1)
	assert.equal(posts[0].url, "http://h/ws?a=1")
	assert.deepEqual(posts[0].headers, {"Grouphub-Stream": "token", "Grouphub-Seq": 1})
	assert.equal(posts[0].body, '{"text":"one"}')
	posts[0].reject(new TypeError("fetch failed"))
	await settle()
	assert.equal(posts.length, 1)
	advance(1000)
	await settle()
	assert.equal(posts[1].headers["Grouphub-Seq"], 1, "what may not have arrived is sent again")
	await posts[1].answer(503)
	advance(1000)
	await settle()
	await posts[2].answer()
	assert.deepEqual([posts[3].headers["Grouphub-Seq"], posts[3].headers["Content-Type"]], [2, "application/octet-stream"])
	await posts[3].answer()
	hub.close() // what was sent still goes out
	assert.equal(posts[4].body, "three")
	assert.ok(!lastStream().signal.aborted)
	await posts[4].answer()
	assert.ok(lastStream().signal.aborted)
	assert.equal(posts.length, 5)
})

test("a message that is refused ends the stream, and the next one begins to count anew", async () => {
	for (const [status, code] of [[410, 1006], [403, 1006], [413, 1009]]) {
		const {hub, closes} = await openStream()
		hub.send("one")
		hub.send("two")
		await posts.at(-1).answer(status)
		assert.deepEqual(closes().map(close => close.code), [code])
		advance(250)
		await settle()
		await lastStream().open("another")
		hub.send("three")
		assert.deepEqual(posts.at(-1).headers, {"Grouphub-Stream": "another", "Grouphub-Seq": 1})
		assert.equal(posts.at(-1).body, "three")
		hub.close()
		await posts.at(-1).answer()
	}
})

test("after two WebSockets in a row that fail, a stream is tried, and kept to", async () => {
	const {hub, closes} = connect({transport: "auto"})
	await fail()
	assert.equal(streams.length, 0)
	await fail()
	assert.equal(sockets.length, 2)
	assert.equal(streams.length, 1)
	await lastStream().open()
	assert.deepEqual([hub.state, hub.transport], ["open", "stream"])
	await lastStream().end()
	advance(250)
	await settle()
	assert.equal(sockets.length, 2)
	assert.equal(streams.length, 2, "the next one is a stream at once")
	await lastStream().refuse(502, "")
	assert.equal(closes().length, 4)
	advance(250)
	await settle()
	assert.equal(sockets.length, 3, "and when it fails, a WebSocket")
	await fail()
	assert.equal(streams.length, 3)
	await lastStream().refuse(502, "")
	advance(250)
	await settle()
	assert.equal(sockets.length, 4, "and so on in turn")
})

test("a WebSocket that hangs has failed after six seconds", async () => {
	const {closes} = connect({transport: "auto"})
	for (const n of [1, 2]) {
		advance(5999)
		await settle()
		assert.equal(closes().length, n - 1)
		const hanging = last()
		advance(1)
		await settle()
		assert.equal(closes().length, n)
		assert.equal(closes().at(-1).reason, "timeout")
		assert.ok(hanging.closedWith)
		hanging.end() // as it does when it is closed
		advance(closes().at(-1).delay)
		await settle()
	}
	assert.equal(streams.length, 1)
})

test("only what a proxy may have done counts as a failure", async () => {
	for (const succeed of [
		() => last().end(1013, "busy"),
		() => { last().open(); last().receive("x"); last().end() },
		() => { last().open(); advance(5000); last().end() },
	]) {
		const {hub} = connect({transport: "auto"})
		await fail()
		succeed()
		await settle()
		advance(250)
		await settle()
		await fail()
		assert.equal(streams.length, 0)
		last().open()
		advance(4999) // without a message
		await fail()
		assert.equal(streams.length, 1)
		hub.close()
		streams = []
	}
})

test('"websocket" and "stream" are that in any case', async () => {
	const one = connect({transport: "websocket"})
	for (let i = 0; i < 5; i++) await fail()
	assert.deepEqual([sockets.length, streams.length], [6, 0])
	one.hub.close()
	connect({transport: "stream"})
	await settle()
	for (let i = 0; i < 5; i++) {
		await lastStream().refuse(502, "")
		advance(250)
		await settle()
	}
	assert.deepEqual([sockets.length, streams.length], [6, 6])
})

test("one WebSocket is tried beside a stream, and taken if it holds", async () => {
	const {hub, closes} = connect({transport: "auto"})
	await fail()
	await fail()
	await lastStream().open()
	advance(59999)
	assert.equal(sockets.length, 2)
	advance(1)
	assert.equal(sockets.length, 3)
	assert.equal(last().url, "ws://example.com/ws", "without positions")
	last().end()
	advance(600000)
	assert.equal(sockets.length, 3, "once")
	assert.equal(hub.transport, "stream")
	await lastStream().end()
	advance(250)
	await settle()
	await lastStream().open()
	advance(60000)
	const probe = last()
	probe.open()
	advance(4999)
	assert.equal(closes().length, 3)
	advance(1)
	assert.ok(probe.closedWith)
	assert.deepEqual(closes().at(-1), {code: 1006, reason: "websocket", willReconnect: true, delay: 0})
	advance(0)
	await settle()
	last().open()
	assert.deepEqual([hub.state, hub.transport], ["open", "websocket"])
})

test("where there is no WebSocket a stream is all there is", async () => {
	connect({transport: undefined, WebSocket: null})
	await settle()
	assert.equal(streams.length, 1)
})

test("a page that is left ends its stream", async () => {
	const {leave, visibility} = page()
	const {hub} = await openStream()
	hub.send("one")
	leave()
	assert.ok(lastStream().signal.aborted)
	visibility("visible")
	await settle()
	assert.equal(streams.length, 2)
	hub.close()
})
