// The browser client of grouphub: a connection that comes back, and that asks the
// server for what it missed meanwhile. client.d.ts says what can be relied on.
//
// A GroupHub is in one of four states. What a socket, a timer or an answer says is heard
// only while the attempt at a connection that it belongs to is the current one.
//
//	connecting ──▶ open ──▶ waiting ──▶ connecting …
//	     └───────────┴─────────┴──▶ closed ──reconnect──▶ connecting

// The readyState of an open socket, whatever constructor was injected.
const OPEN = 1

// All times are in milliseconds.

// Delays begin anew after a connection that lasted this long. No timeout of the server
// explains it: one in trouble accepts a connection, and gives it up after as many as 20 s.
const stableAfter = 30000

// A connection that a server in trouble accepts often ends within a round trip. What waits
// to be sent is handed over only to one that has outlived that.
const momentAfterOpen = 500

// A proxy that lets no WebSocket pass refuses it, cuts it, or leaves it hanging. One that
// has not opened after hangsAfter, or ended before it brought a message or was provenAfter
// old, may have met one.
const hangsAfter = 6000, provenAfter = 5000

// Proxies refuse long URLs (nginx from 8 KiB on), and would do so for ever.
const maxResumeLength = 6000

// Groups whose positions have no room in the URL are told one by one, up to so many.
const maxResyncs = 1000

// Events of the application that are named like the client's own go to "*".
const ownTypes = ["open", "close", "message", "resync", "position"]

// loadStreams returns the module that knows event streams. Bundlers and folders have it
// beside this one; grouphub.ClientJS serves both at one address. A browser remembers what it
// could not load, so that each try needs an address of its own.
const loadStreams = () => import("./client.stream.js").catch(() =>
	import(new URL(`?stream=${Date.now()}`, import.meta.url)))

// absolute returns the address of a WebSocket. Only a relative URL needs a page, and only
// pages and workers have a place. For a worker made of a Blob it is the origin in its name.
function absolute(url) {
	const {document, location} = globalThis
	const place = document?.baseURI ?? location?.href.replace(/^blob:(\w+:\/\/[^/]+).*/, "$1")
	const address = new URL(url, place)
	address.protocol = address.protocol.replace("http", "ws")
	address.hash = ""
	if (!/^wss?:/.test(address)) throw new SyntaxError(`grouphub: no URL for a WebSocket: ${url}`)
	return address
}

export class GroupHub {
	// Static: what the caller wants.
	#url // what the caller gave: a function, or else absolute
	#WebSocket
	#protocols
	#resume
	#room // of the queue
	#minDelay
	#maxDelay
	#timeout
	#transport
	#interval // between two heartbeats; 0: there are none
	#retry
	#signal

	#state = "closed"
	#attempt // the token of the current attempt, or of the wait for the next one
	#socket // the current one; undefined between two
	#timers = {} // they end with the attempt
	#attempts = 0 // since a connection was stable
	#failures = 0 // WebSockets in a row that may have met a proxy
	#proven // whether the current connection has lasted, or brought a message
	#doubted // whether it has one interval left to show that it is alive
	#fallback // chooses between WebSockets and streams, once a WebSocket may have met a proxy
	#queue = []
	#handlers = new Map() // type → Set of what calls them
	#positions // group → id; the group that was heard from last is the last one
	#life // aborted once a final close has been told

	constructor(url, options = {}) {
		const {positions = {}, heartbeat = 25000} = options;
		({
			WebSocket: this.#WebSocket = globalThis.WebSocket, protocols: this.#protocols, resume: this.#resume = true,
			queue: this.#room = 0, minDelay: this.#minDelay = 250, maxDelay: this.#maxDelay = 30000, timeout: this.#timeout = 20000,
			transport: this.#transport = this.#WebSocket ? "auto" : "stream", retry: this.#retry, signal: this.#signal,
		} = options)
		this.#interval = heartbeat > 0 && Math.min(Math.max(heartbeat, 5000), 300000) // as the server does
		this.#positions = new Map(Object.entries(positions))
		this.#url = typeof url === "function" ? url : absolute(url)
		this.reconnect()
	}

	get state() { return this.#state }

	get transport() {
		if (this.#state === "open") return this.#socket.transport ?? "websocket"
	}

	get positions() { return Object.fromEntries(this.#positions) }

	on(type, handler, {signal, once} = {}) {
		const calls = this.#handlers.get(type) ?? new Set()
		const off = () => {
			calls.delete(call)
			signal?.removeEventListener("abort", off)
		}
		const call = (...args) => { // one for each time that the handler is added
			if (once) off()
			handler(...args)
		}
		if (signal?.aborted) return off
		this.#handlers.set(type, calls.add(call))
		signal?.addEventListener("abort", off)
		return off
	}

	send(value) {
		const asItIs = typeof value === "string" || value instanceof ArrayBuffer || ArrayBuffer.isView(value) || value instanceof Blob
		const message = asItIs ? value : JSON.stringify(value)
		if (message === undefined) throw new TypeError(`grouphub: send: ${typeof value} has no JSON`)
		const waiting = this.#queue.length, hasRoom = waiting < this.#room
		if (this.#socket?.readyState === OPEN && !(hasRoom && this.#timers.moment)) {
			this.#handOver()
			this.#socket.send(message)
		} else if (this.#state === "closed") throw new Error("grouphub: send: closed")
		else if (!hasRoom) throw new Error(`grouphub: send: not connected, and ${waiting} messages wait`)
		else this.#queue.push(message)
	}

	reconnect() {
		if (this.#signal?.aborted) return
		if (this.#state === "open") return this.#drop("reconnect", 0)
		if (this.#state === "closed") this.#listen()
		this.#connect()
	}

	close() {
		if (this.#state === "closed") return
		this.#socket?.close(1000)
		this.#finish(1000, "")
	}

	// Hears from the page what a socket does not know.
	#listen() {
		const {document} = globalThis
		const {signal} = this.#life = new AbortController()
		const on = (type, react, target = globalThis) => target.addEventListener?.(type, react, {signal})
		// A socket without a network can look open for minutes, and a page that was left may be
		// kept for the way back, deaf and with its socket open.
		for (const type of ["offline", "pagehide"]) on(type, () => this.#socket && this.#drop(type))
		on("online", () => {
			this.#attempts = 0 // it often comes a little too early
			if (this.#state === "open") this.#watch(true)
			else this.#connect() // an attempt from before has no chance
		})
		// After a freeze Chromium tells no change of visibility, and the page may still be hidden.
		if (document) for (const type of ["visibilitychange", "resume"]) on(type, () => {
			if (type === "visibilitychange" && document.visibilityState !== "visible") return
			if (this.#state === "waiting") this.#connect()
			else this.#watch(true)
		}, document)
		if (this.#signal) on("abort", () => this.close(), this.#signal)
	}

	#after(name, delay, action) {
		clearTimeout(this.#timers[name])
		this.#timers[name] = setTimeout(action, delay)
	}

	// Leaves the current attempt, or the wait for one, without a word.
	#leave(state) {
		Object.values(this.#timers).forEach(clearTimeout)
		this.#timers = {}
		this.#state = state
		this.#socket = undefined
		this.#proven = this.#doubted = false
		return this.#attempt = {}
	}

	// Asks for the address, which may take a while, and opens a socket to it.
	async #connect() {
		this.#socket?.close()
		const attempt = this.#leave("connecting")
		this.#after("phase", this.#timeout, () => this.#drop("timeout"))
		try {
			let url = this.#url
			if (!(url instanceof URL)) url = await url()
			if (this.#transport === "stream") await this.#fallBack(0)
			if (attempt === this.#attempt) this.#open(absolute(url))
		} catch (error) {
			// Such as a Content-Security-Policy that forbids the URL. It is told later, when
			// handlers have been added.
			await 0
			if (attempt === this.#attempt) this.#lost({reason: `${error}`})
		}
	}

	#open(url) {
		const forgotten = this.#addTo(url), address = url.href
		const socket = this.#socket = this.#fallback?.open(address, this.#failures) ?? new this.#WebSocket(address, this.#protocols)
		const attempt = this.#attempt
		const current = react => event => { if (attempt === this.#attempt) react(event) }
		socket.binaryType = "arraybuffer"
		socket.onopen = current(() => this.#opened())
		socket.onmessage = current(({data}) => {
			this.#prove()
			this.#watch(false)
			this.#receive(data)
		})
		socket.onclose = current(event => this.#ended(event, address))
		// In a browser each error is followed by its close at once. Some Node 22 leave that
		// out, and the package ws throws an error that nobody listens to.
		socket.onerror = () => setTimeout(current(() => this.#ended({}, address)))
		const hangs = current(() => this.#fallback && this.#drop("timeout"))
		if (!socket.transport) this.#after("proof", hangsAfter, () => this.#fallBack(1).then(hangs))
		for (const group of forgotten) this.#emit("resync", group, {type: "resync", group})
	}

	#opened() {
		this.#state = "open"
		this.#after("phase", stableAfter, () => { this.#attempts = 0 })
		this.#after("proof", provenAfter, () => this.#prove())
		if (this.#room) this.#after("moment", momentAfterOpen, () => this.#handOver())
		this.#watch(false)
		this.#emit("open")
	}

	#prove() {
		this.#proven = true
		if (!this.#socket.transport) this.#failures = 0
	}

	// Hands over what waits, unless the other side has begun to close.
	#handOver() {
		this.#timers.moment = 0
		while (this.#queue.length && this.#socket.readyState === OPEN) this.#socket.send(this.#queue.shift())
	}

	// Has silence noticed, in two steps. A page that was frozen meanwhile finds the first one
	// overdue, and hears what has come before the second one is.
	#watch(doubts) {
		if (!this.#interval || this.#state !== "open" || doubts && this.#doubted) return
		this.#doubted = doubts
		this.#after("silence", this.#interval * (doubts ? 1 : 1.5), () => doubts ? this.#drop("silence") : this.#watch(true))
	}

	// Adds to the URL what the server is to know, the position of each group above all, and
	// returns the groups that had no room in it. It is added as text: searchParams would
	// write the caller's own parameters anew.
	#addTo(url) {
		const groups = this.#resume ? [...this.#positions.keys()].reverse() : []
		let resume = "", n = 0
		for (const group of groups) {
			const position = `&${new URLSearchParams({resume: `${group}@${this.#positions.get(group)}`})}`
			if (resume.length + position.length > maxResumeLength) break
			resume += position
			n++
		}
		if (this.#resume) resume ||= "&resume="
		if (this.#interval) resume = `&heartbeat=${this.#interval / 1000}${resume}`
		url.search = (url.search + resume).replace(/^&/, "")
		const forgotten = groups.slice(n)
		for (const group of forgotten) this.#positions.delete(group)
		return forgotten.length > maxResyncs ? [""] : forgotten // "" stands for all groups
	}

	#receive(data) {
		let event
		try {
			event = JSON.parse(data)
		} catch {} // not ours, but the application may send what it likes
		if (typeof event?.type !== "string") return this.#emit("message", data)
		const {type, group, id} = event, isOwn = /^grouphub\.(heartbeat|left|position)$/.test(type)
		if (isOwn || typeof id === "string") {
			this.#positions.delete(group) // to become the last one
			if (id && typeof group === "string") this.#positions.set(group, id)
		}
		if (isOwn) return id && this.#emit("position", group)
		// The position stays: what is sent between now and the next event is still to be
		// asked for, and a second resync is better than a gap that nobody hears of.
		if (type === "resync" && (id ?? event.data) === undefined) return this.#emit(type, group, event)
		this.#emit(!ownTypes.includes(type) && this.#handlers.get(type)?.size ? type : "*", event.data, event)
	}

	// Ends the current connection without waiting for the other side, which may be gone.
	#drop(reason, delay) {
		this.#socket?.close(undefined)
		this.#lost({reason, delay})
	}

	// Takes the end that a socket tells.
	#ended(event, address) {
		// A constructor that was injected has a way of its own to tell a refusal.
		const refused = this.#state === "connecting" && this.#WebSocket === globalThis.WebSocket
		if (!this.#socket.transport && !this.#proven) (event.code || 1006) === 1006 ? this.#fallBack(1) : this.#prove()
		this.#lost(event)
		if (refused && this.#state === "waiting") this.#askWhy(address)
	}

	// From now on the module for streams chooses how to connect.
	async #fallBack(failures) {
		this.#failures += failures
		try {
			if (this.#transport !== "websocket") {
				this.#fallback ??= new (await loadStreams()).Fallback(this.#transport, this.#WebSocket, this.#protocols)
			}
		} catch {} // as if WebSockets were all there is
	}

	// The connection is lost, or the attempt has failed. The next one comes after the delay,
	// which is random unless the event knows better.
	#lost({code, reason = "", delay}) {
		code ||= 1006 // an error has no code, and Deno says 0 where a browser says 1006
		const longest = Math.min(this.#maxDelay, this.#minDelay * 2 ** ++this.#attempts)
		delay ??= this.#minDelay + Math.random() * (longest - this.#minDelay)
		this.#finish(code, reason, delay === 0 || !this.#isFinal(code, reason), delay) // 0: somebody wants a new one
	}

	#isFinal(code, reason) {
		return !(this.#call(this.#retry, code, reason) ?? !/^(1000|1008|44..)$/.test(code))
	}

	#finish(code, reason, willReconnect = false, delay = 0) {
		const life = this.#life
		this.#leave(willReconnect ? "waiting" : "closed")
		if (willReconnect) this.#after("phase", delay, () => this.#connect())
		else this.#queue = []
		this.#emit("close", {code, reason, willReconnect, delay: willReconnect ? delay : 0}) // may call close, send or reconnect
		if (!willReconnect) life.abort()
	}

	// A browser does not tell why a WebSocket was refused, but the same URL answers a plain
	// request alike. What is no clear answer changes nothing.
	async #askWhy(address) {
		const attempt = this.#attempt
		try {
			const answer = await fetch(address.replace("ws", "http"), {credentials: "include", signal: AbortSignal.timeout(5000)})
			const {status} = answer, code = 4000 + status, reason = (await answer.text()).trim().slice(0, 123)
			const seconds = answer.headers.get("retry-after")
			if (attempt !== this.#attempt) return
			if ([401, 403, 404, 410].includes(status) && this.#isFinal(code, reason)) this.#finish(code, reason)
			else if (seconds > 0) this.#after("phase", seconds * (1000 + Math.random() * 250), () => this.#connect())
		} catch {}
	}

	#emit(type, ...args) {
		const calls = this.#handlers.get(type) ?? [], {signal} = this.#life
		for (const call of [...calls]) {
			if (signal.aborted) return // a handler has closed
			if (calls.has(call)) this.#call(call, ...args) // or an earlier one has removed it
		}
	}

	// Calls a function of the caller's, which breaks nothing if it throws.
	#call(fn, ...args) {
		try {
			return fn?.(...args)
		} catch (error) {
			(globalThis.reportError ?? console.error)(error)
		}
	}
}
