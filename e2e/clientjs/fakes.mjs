// A network, a clock, dice and a page that are made here, for the tests of client.js.

import assert from "node:assert/strict"
import {afterEach, beforeEach} from "node:test"

import {GroupHub} from "../../client.js"

export const url = "ws://example.com/ws"
const real = {setTimeout, clearTimeout, WebSocket: globalThis.WebSocket, fetch, random: Math.random}

export let sockets // all that were made, in order
export const world = {random: 0} // what Math.random returns
export let timers, now // what waits, and the time in milliseconds

export class FakeSocket extends EventTarget {
	readyState = 0
	sent = []
	closedWith // the arguments of close
	constructor(...args) {
		super()
		;[this.url, this.protocols] = args
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
		this.#tell("open")
	}
	receive(data) { this.#tell("message", {data: typeof data === "string" || data instanceof ArrayBuffer ? data : JSON.stringify(data)}) }
	end(code = 1006, reason = "") {
		this.readyState = 3
		this.#tell("close", {code, reason})
	}
	#tell(type, properties) {
		const event = Object.assign(new Event(type), properties)
		this[`on${type}`]?.(event)
		this.dispatchEvent(event)
	}
}

// turn lets promises that are kept already do what follows.
export const turn = () => new Promise(resolve => setImmediate(resolve))

// advance lets time pass, and what is due happen.
export function advance(milliseconds) {
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
	world.random = 0
	let lastID = 0
	Math.random = () => world.random
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
export function page(href = "https://example.com/rooms/lobby?x=1#top") {
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
		resume() { // Chromium thaws pages that are still hidden
			document.visibilityState = "hidden"
			document.dispatchEvent(new Event("resume"))
		},
		visibility(state) {
			document.visibilityState = state
			document.dispatchEvent(new Event("visibilitychange"))
		},
	}
}

// connect returns a hub, and what its handlers of all types were called with. It asks for no
// heartbeats, and does without streams, unless the test is about them.
export function connect({to = url, types = ["open", "close", "resync", "message", "*"], ...options} = {}) {
	const hub = new GroupHub(to, {WebSocket: FakeSocket, heartbeat: 0, transport: "websocket", ...options})
	const calls = []
	for (const type of types) hub.on(type, (...args) => calls.push([type, ...args]))
	return {hub, calls, closes: () => calls.filter(([type]) => type === "close").map(([, close]) => close)}
}

export const last = () => sockets.at(-1)
export const resumes = socket => new URL(socket.url).searchParams.getAll("resume")
export const plain = options => connect({resume: false, ...options})
