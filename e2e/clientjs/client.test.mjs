// What client.d.ts promises, on a network and a clock that are made here.

import assert from "node:assert/strict"
import {readFileSync} from "node:fs"
import {afterEach, beforeEach, test} from "node:test"

// As a data: URL, because without a package.json a .js file is no module to older versions of Node.
const source = readFileSync(new URL("../../client.js", import.meta.url), "utf8")
const {GroupHub} = await import(`data:text/javascript,${encodeURIComponent(source)}`)

const url = "ws://example.com/ws"
const real = {...globalThis, setTimeout, clearTimeout, random: Math.random}

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
	Object.assign(globalThis, {setTimeout: real.setTimeout, clearTimeout: real.clearTimeout})
	Math.random = real.random
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
		visibility(state) {
			document.visibilityState = state
			document.dispatchEvent(new Event("visibilitychange"))
		},
	}
}

// connect returns a hub, and what its handlers of all types were called with.
function connect({to = url, types = ["open", "close", "resync", "message", "*"], ...options} = {}) {
	const hub = new GroupHub(to, {WebSocket: FakeSocket, ...options})
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

test("without a page an absolute URL does, and a relative one throws", () => {
	plain({to: "http://localhost:8080/ws"})
	assert.equal(last().url, "ws://localhost:8080/ws")
	assert.throws(() => plain({to: "/ws"}), TypeError)
	class Picky { constructor() { throw new SyntaxError("no URL for a WebSocket") } }
	const {listeners} = page()
	timers.clear()
	assert.throws(() => plain({to: "mailto:ann@example.com", WebSocket: Picky}), SyntaxError)
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
	const {hub, calls} = connect()
	const off = hub.on("known", () => calls.push(["known"]))
	last().open()
	for (const type of ["known", "unknown", "open", "close", "message", "constructor", "*"]) last().receive({type, data: 1})
	off()
	last().receive({type: "known", data: 2})
	assert.deepEqual(calls.slice(1).map(([handler, data, event]) => [handler, event?.type]), [
		["known", undefined],
		["*", "unknown"], ["*", "open"], ["*", "close"], ["*", "message"], ["*", "constructor"], ["*", "*"],
		["*", "known"],
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

test("the delays begin anew after a connection that lasted, not after any", () => {
	random = 1
	const {closes} = connect()
	for (const [lasted, want] of [[0, 500], [4999, 1000], [4999, 2000], [5000, 500], [0, 1000]]) {
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
	const {hub, calls} = connect({queue: 3})
	hub.on("open", () => hub.send("from the handler"))
	const value = {n: 1}
	hub.send(value)
	value.n = 2
	last().end()
	hub.send("two")
	advance(250)
	hub.send("three")
	assert.throws(() => hub.send("four"), {message: "grouphub: send: not connected, and 3 messages wait"})
	assert.throws(() => hub.send(undefined), TypeError)
	last().open()
	assert.deepEqual(last().sent, ['{"n":1}', "two", "three", "from the handler"])
	assert.deepEqual(calls.at(-1), ["open"])
	last().end()
	advance(250)
	last().open()
	assert.deepEqual(last().sent, ["from the handler"], "each is sent once")
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
	assert.equal(listeners.size, 4)
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
