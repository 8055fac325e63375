// What client.d.ts promises, on a network and a clock that are made here.

import assert from "node:assert/strict"
import {afterEach, beforeEach, test} from "node:test"

import {GroupHub} from "../../client.js"

const url = "ws://example.com/ws"
const real = {setTimeout, clearTimeout, WebSocket: globalThis.WebSocket, fetch, random: Math.random}

let sockets // all that were made, in order
let timers, now // what waits, and the time in milliseconds
let random // what Math.random returns

class FakeSocket {
	readyState = 0
	sent = []
	closedWith // the arguments of close
	constructor(...args) {
		[this.url, this.protocols] = args
		sockets.push(this)
	}
	send(message) {
		assert.equal(this.readyState, 1)
		this.sent.push(message)
	}
	close(...args) {
		this.readyState = 2
		this.closedWith ??= args
	}
	// What the server and the network do:
	open() {
		this.readyState = 1
		this.onopen({})
	}
	receive(data) { this.onmessage({data: typeof data === "string" || data instanceof ArrayBuffer ? data : JSON.stringify(data)}) }
	end(code = 1006, reason = "") {
		this.readyState = 3
		this.onclose({code, reason})
	}
}

// turn lets promises that are kept already do what follows.
const turn = () => new Promise(resolve => setImmediate(resolve))

// advance lets time pass, and what is due happen.
function advance(milliseconds) {
	const end = now + milliseconds
	for (;;) {
		const [id, next] = [...timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? []
		if (!next || next.at > end) break
		timers.delete(id)
		now = next.at
		next.callback()
	}
	now = end
}

beforeEach(() => {
	sockets = []
	timers = new Map()
	now = 0
	random = 0
	let lastID = 0
	Math.random = () => random
	globalThis.setTimeout = (callback, delay = 0) => {
		assert.ok(delay >= 0 && delay < 2 ** 31, `a delay of ${delay}`)
		timers.set(++lastID, {at: now + delay, callback})
		return lastID
	}
	globalThis.clearTimeout = id => timers.delete(id)
})

afterEach(() => {
	const {random, ...globals} = real
	Object.assign(globalThis, globals)
	Math.random = random
	for (const name of ["document", "location", "addEventListener", "reportError"]) delete globalThis[name]
})

// page makes a browser's page of this process; go sends its events.
function page(href = "https://example.com/rooms/lobby?x=1#top") {
	const window = new EventTarget(), document = new EventTarget()
	Object.assign(document, {baseURI: href, visibilityState: "visible"})
	const listeners = new Set()
	for (const target of [window, document]) {
		const add = target.addEventListener
		target.addEventListener = (type, listener, options) => {
			listeners.add(type)
			options.signal.addEventListener("abort", () => listeners.delete(type))
			add.call(target, type, listener, options)
		}
	}
	globalThis.document = document
	globalThis.addEventListener = window.addEventListener
	return {
		listeners,
		online: () => window.dispatchEvent(new Event("online")),
		offline: () => window.dispatchEvent(new Event("offline")),
		leave: () => window.dispatchEvent(new Event("pagehide")),
		resume: () => document.dispatchEvent(new Event("resume")),
		visibility(state) {
			document.visibilityState = state
			document.dispatchEvent(new Event("visibilitychange"))
		},
	}
}

// connect returns a hub, and what its handlers of all types were called with. It asks for no
// heartbeats, and does without streams, unless the test is about them.
function connect({to = url, types = ["open", "close", "resync", "message", "*"], ...options} = {}) {
	const hub = new GroupHub(to, {WebSocket: FakeSocket, heartbeat: 0, transport: "websocket", ...options})
	const calls = []
	for (const type of types) hub.on(type, (...args) => calls.push([type, ...args]))
	return {hub, calls, closes: () => calls.filter(([type]) => type === "close").map(([, close]) => close)}
}

const last = () => sockets.at(-1)
const resumes = socket => new URL(socket.url).searchParams.getAll("resume")
const plain = options => connect({resume: false, ...options})

// What is needed to be connected.

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

// Events.

test("an event goes to the handlers of its type, with its data and itself", () => {
	const {hub, calls} = connect()
	hub.on("chat.message", (...args) => calls.push(["first", ...args]))
	hub.on("chat.message", (...args) => calls.push(["second", ...args]))
	last().open()
	const event = {type: "chat.message", group: "room:lobby", data: {text: "hello"}}
	last().receive(event)
	assert.deepEqual(calls, [["open"], ["first", event.data, event], ["second", event.data, event]])
})

test('"*" takes the types without a handler, and those with a reserved name', () => {
	const {hub, calls} = connect({types: ["open", "close", "resync", "message", "position", "*"]})
	const off = hub.on("known", () => calls.push(["known"]))
	last().open()
	for (const type of ["known", "unknown", "open", "close", "message", "position", "resync", "constructor", "*"]) {
		last().receive({type, data: 1})
	}
	last().receive({type: "resync", group: "g", id: "1"}) // the application's own, without data
	off()
	last().receive({type: "known", data: 2})
	assert.deepEqual(calls.slice(1).map(([handler, data, event]) => [handler, event?.type]), [
		["known", undefined],
		["*", "unknown"], ["*", "open"], ["*", "close"], ["*", "message"], ["*", "position"], ["*", "resync"],
		["*", "constructor"], ["*", "*"], ["*", "resync"], ["*", "known"],
	])
})

test("what is no event goes to message handlers as it came", () => {
	const {calls} = connect()
	last().open()
	assert.equal(last().binaryType, "arraybuffer")
	const messages = ["hello", "", "null", "7", '"text"', "[1]", "{}", '{"type":7}', "{", new ArrayBuffer(3)]
	for (const message of messages) last().receive(message)
	assert.deepEqual(calls.slice(1), messages.map(message => ["message", message]))
})

test("a handler is removed by what on returned, once for each time it was added", () => {
	const {hub} = connect({types: []})
	let n = 0
	const handler = () => n++
	const [one, two] = [hub.on("tick", handler), hub.on("tick", handler)]
	last().open()
	for (const [change, want] of [[() => {}, 2], [one, 3], [one, 4], [two, 4]]) {
		change()
		last().receive({type: "tick"})
		assert.equal(n, want)
	}
})

test("handlers may add and remove handlers", () => {
	const {hub} = connect({types: []})
	const calls = []
	hub.on("tick", () => {
		calls.push("first")
		off()
		hub.on("tick", () => calls.push("added"))
	})
	const off = hub.on("tick", () => calls.push("removed"))
	last().open()
	last().receive({type: "tick"})
	assert.deepEqual(calls, ["first"])
	last().receive({type: "tick"})
	assert.deepEqual(calls, ["first", "first", "added"])
})

test("a handler that throws is reported and breaks nothing", t => {
	const reported = []
	t.mock.method(console, "error", error => reported.push(error.message))
	const {hub, calls} = connect({types: []})
	for (const type of ["open", "close", "resync", "message", "tick"]) {
		hub.on(type, () => { throw new Error(type) })
		hub.on(type, () => calls.push(type))
	}
	last().open()
	last().receive("text")
	globalThis.reportError = error => reported.push(`page: ${error.message}`)
	last().receive({type: "tick"})
	last().receive({type: "resync", group: "g"})
	last().end()
	advance(250)
	last().open()
	assert.deepEqual(calls, ["open", "message", "tick", "resync", "close", "open"])
	assert.deepEqual(reported, ["open", "message", "page: tick", "page: resync", "page: close", "page: open"])
})

// Coming back.

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
		random = value
		const {closes} = connect()
		for (const delay of want) {
			last().end()
			assert.equal(closes().at(-1).delay, delay)
			advance(delay)
		}
	}
})

test("the caller chooses the delays, and a thousand attempts later they are still numbers", () => {
	random = 1
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
	random = 1
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
	random = 1
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
	random = 1
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

// Resuming.

test("the first connection asks for positions, and the next ones resume from them", () => {
	const {calls} = connect()
	assert.equal(last().url, url + "?resume=")
	last().open()
	last().receive({type: "grouphub.position", group: "room:a", id: "1-0"})
	last().receive({type: "grouphub.position", group: "room:b", id: "2-0"})
	last().receive({type: "chat", group: "room:b", id: "2-1", data: 1})
	last().receive({type: "chat", group: "no history", data: 1})
	assert.deepEqual(calls.map(([type]) => type), ["open", "*", "*"], "positions are not for handlers")
	for (let i = 0; i < 2; i++) {
		last().end()
		advance(250)
		assert.deepEqual(resumes(last()).sort(), ["room:a@1-0", "room:b@2-1"])
		last().open()
	}
	last().receive({type: "chat", group: "room:a", id: "1-1"})
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()).sort(), ["room:a@1-1", "room:b@2-1"])
})

test("a connection that ends before it says anything loses no position", () => {
	connect()
	last().open()
	last().receive({type: "chat", group: "g", id: "7"})
	for (let i = 0; i < 3; i++) {
		last().end()
		advance(30000)
		assert.deepEqual(resumes(last()), ["g@7"])
	}
})

test("without any position the next connection asks again", () => {
	connect()
	last().open()
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()), [""])
})

test("group names and positions of any kind survive the URL", () => {
	const groups = ["a@b", "ü/ñ 大厅 🎉", "a&b=c#d?e", "100% 'q' \"q\" +", "!user/%2F", "\ud800 alone"]
	connect()
	last().open()
	for (const group of groups) last().receive({type: "chat", group, id: "é&@1"})
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()).sort(), groups.map(group => group.toWellFormed?.() ?? group.replace("\ud800", "\ufffd")).map(group => `${group}@é&@1`).sort())
})

test("the caller's parameters stay as they are", () => {
	for (const [to, want] of [
		["ws://h/ws?room=a%20b+c&sig=%2f~'", "ws://h/ws?room=a%20b+c&sig=%2f~%27&resume="], // %27 is any URL's doing
		["ws://h/ws?", "ws://h/ws?resume="],
		["ws://h/ws#part", "ws://h/ws?resume="],
	]) {
		connect({to})
		assert.equal(last().url, want)
	}
	last().open()
	last().receive({type: "chat", group: "g", id: "1"})
	last().end()
	advance(250)
	assert.equal(last().url, "ws://h/ws?resume=g%401")
})

test("resume: false leaves the URL alone", () => {
	connect({resume: false, to: "ws://h/ws?a=1"})
	for (let i = 0; i < 2; i++) {
		assert.equal(last().url, "ws://h/ws?a=1")
		last().open()
		last().receive({type: "chat", group: "g", id: "1"})
		last().end()
		advance(250)
	}
})

test("resync handlers get the group, and its position stays until there is a new one", () => {
	const {calls} = connect()
	last().open()
	last().receive({type: "chat", group: "g", id: "1"})
	const event = {type: "resync", group: "g"}
	last().receive(event)
	assert.deepEqual(calls.at(-1), ["resync", "g", event])
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()), ["g@1"], "or what was sent after the resync would be missed in silence")
	last().open()
	last().receive(event)
	last().receive({type: "grouphub.position", group: "g", id: "9"})
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()), ["g@9"])
})

test("a position without an id is forgotten", () => {
	connect()
	last().open()
	for (const group of ["a", "b"]) last().receive({type: "chat", group, id: "1"})
	last().receive({type: "grouphub.position", group: "a"})
	last().receive({type: "grouphub.position"})
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()), ["b@1"])
})

test("what has no group and id of text is no position", () => {
	const {calls} = connect()
	last().open()
	for (const event of [{group: "g", id: 7}, {group: "g", id: ""}, {group: 7, id: "7"}, {id: "7"}, {group: null, id: null}]) {
		last().receive({type: "chat", ...event})
	}
	assert.equal(calls.length, 6, "but still an event")
	last().end()
	advance(250)
	assert.deepEqual(resumes(last()), [""])
})

test("positions that a URL has no room for are told as resync, the quietest first", () => {
	const {calls} = connect()
	last().open()
	const groups = Array.from({length: 300}, (_, i) => `room:${String(i).padStart(20, "0")}`)
	for (const group of groups) last().receive({type: "grouphub.position", group, id: "1"})
	last().receive({type: "chat", group: groups[0], id: "2"})
	calls.length = 0
	last().end()
	advance(250)
	const kept = resumes(last())
	assert.ok(last().url.length <= url.length + 6001, `${last().url.length} characters`)
	assert.ok(kept.length > 100 && kept.length < 300)
	assert.equal(kept[0], groups[0] + "@2")
	assert.deepEqual(kept.slice(1), groups.slice(301 - kept.length).reverse().map(group => group + "@1"))
	const told = calls.slice(1)
	assert.deepEqual(told.map(([type, group]) => [type, group]).sort(), groups.slice(1, 301 - kept.length).map(group => ["resync", group]))
	assert.deepEqual(told[0][2], {type: "resync", group: told[0][1]})
	last().end()
	advance(1000)
	assert.deepEqual(resumes(last()), kept, "and told once")
	assert.equal(calls.filter(([type]) => type === "resync").length, told.length)
})

// Sending.

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

// Closing.

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

// Being alive.

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

// The address.

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

// Refusals.

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

// Who decides.

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

test("handlers go with their signal, or after the first event", () => {
	const {hub} = connect({types: []})
	const controller = new AbortController()
	const calls = []
	hub.on("tick", () => calls.push("signal"), {signal: controller.signal})
	hub.on("tick", n => { calls.push("once"); if (n) last().receive({type: "tick", data: 0}) }, {once: true})
	hub.on("*", () => calls.push("*"))
	hub.on("tick", () => calls.push("never"), {signal: AbortSignal.abort()})
	hub.on("tick", () => calls.push("never"), {signal: controller.signal, once: true})()
	last().open()
	last().receive({type: "tick", data: 1})
	assert.deepEqual(calls, ["signal", "once", "signal"])
	controller.abort()
	last().receive({type: "tick"})
	assert.deepEqual(calls, ["signal", "once", "signal", "*"])
})

// Positions.

test("position handlers hear of each group with history that is joined", () => {
	const {calls} = connect({types: ["position", "*"]})
	last().open()
	last().receive({type: "grouphub.position", group: "a", id: "1"})
	last().receive({type: "chat", group: "a", id: "2"})
	last().receive({type: "grouphub.position", group: "b"})
	assert.deepEqual(calls.map(([type, group]) => [type, group]), [["position", "a"], ["*", undefined]])
})

test("the position of a group that was left ends", () => {
	const {hub, calls} = connect()
	last().open()
	for (const group of ["a", "b"]) last().receive({type: "chat", group, id: "1"})
	last().receive({type: "grouphub.left", group: "a"})
	last().receive({type: "grouphub.left", group: "never joined"})
	assert.equal(calls.length, 3, "which handlers do not hear of")
	assert.deepEqual(hub.positions, {b: "1"})
	last().receive({type: "grouphub.position", group: "a", id: "2"})
	assert.deepEqual(hub.positions, {b: "1", a: "2"})
})

test("positions can be handed on", () => {
	const one = connect()
	last().open()
	for (const group of ["a", "__proto__", "constructor"]) last().receive({type: "chat", group, id: "1"})
	const positions = JSON.parse(JSON.stringify(one.hub.positions))
	const two = connect({positions})
	assert.deepEqual(resumes(last()).sort(), ["__proto__@1", "a@1", "constructor@1"])
	last().open()
	last().receive({type: "chat", group: "a", id: "2"})
	assert.equal(two.hub.positions.a, "2")
	assert.equal(positions.a, "1", "and stay the giver's own")
	assert.equal({}.a, undefined)
	assert.equal(Object.prototype.constructor, Object)
})

test("200,000 groups do not make 200,000 callbacks", () => {
	const {hub, calls} = connect({types: ["resync"]})
	last().open()
	const n = 200_000
	for (let i = 0; i < n; i++) last().receive({type: "grouphub.position", group: `room:${i}`, id: "1"})
	assert.equal(Object.keys(hub.positions).length, n)
	last().end()
	advance(250)
	assert.ok(resumes(last()).length > 100)
	assert.deepEqual(calls, [["resync", "", {type: "resync", group: ""}]], "which stands for any group")
	last().end()
	advance(1000)
	assert.equal(calls.length, 1)
})

test("it leaves no global behind", async () => {
	const before = Object.getOwnPropertyNames(globalThis).sort()
	await import("../../client.js?again")
	const {hub} = connect({heartbeat: 10000, positions: {a: "1"}})
	last().open()
	last().receive({type: "tick"})
	hub.close()
	assert.deepEqual(Object.getOwnPropertyNames(globalThis).sort(), before)
})
