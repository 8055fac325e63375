// The browser client of grouphub: a WebSocket that comes back, and that asks the
// server for what it missed meanwhile. client.d.ts says what can be relied on.

const OPEN = 1 // the readyState of whatever constructor was injected

// A connection that lasted so long, in milliseconds, was a good one: the delays begin
// anew. Being opened is not enough, a server in trouble accepts and closes for hours.
const stableAfter = 5000

// Proxies refuse long URLs (nginx from 8 KiB on), and would do so for ever.
const maxResumeLength = 6000

export class GroupHub {
	#url
	#options
	#socket // the current one; undefined between two. Whatever another one says is ignored
	#timer // of the current state: the attempt's timeout, the good connection, or the next attempt
	#attempts = 0
	#ended = false // for good
	#queue = []
	#handlers = new Map() // type → Set of {handler}
	#positions = new Map() // group → id; the group that was heard from last is the last one
	#listening = new AbortController()

	constructor(url, {
		WebSocket = globalThis.WebSocket, protocols, resume = true, queue = 0,
		minDelay = 250, maxDelay = 30000, timeout = 20000,
	} = {}) {
		this.#options = {WebSocket, protocols, resume, queue, minDelay, maxDelay, timeout}
		// Only a relative URL needs a page, and only pages and workers have a place.
		const absolute = /^[a-z][a-z\d+.-]*:/i.test(url)
		this.#url = new URL(url, absolute ? undefined : globalThis.document?.baseURI ?? globalThis.location?.href)
		this.#url.protocol = this.#url.protocol.replace("http", "ws")
		this.#url.hash = ""
		this.#connect() // throws if this is no URL for a WebSocket

		const {signal} = this.#listening
		const {document} = globalThis
		// A socket without a network can look open for minutes.
		globalThis.addEventListener?.("offline", () => this.#socket && this.#drop(1006, "offline"), {signal})
		globalThis.addEventListener?.("online", () => {
			this.#attempts = 0 // "online" often comes a little too early
			if (!this.#socket?.readyState) this.#connect() // an attempt from before has no chance
		}, {signal})
		// A page that was left may be kept for the way back, deaf and with its socket open. When
		// it is shown again it becomes visible.
		globalThis.addEventListener?.("pagehide", () => this.#socket && this.#drop(1006, "pagehide"), {signal})
		document?.addEventListener("visibilitychange", () => {
			if (document.visibilityState === "visible" && !this.#socket) this.#connect()
		}, {signal})
	}

	on(type, handler) {
		const entry = {handler} // the same handler can be there twice
		if (!this.#handlers.has(type)) this.#handlers.set(type, new Set())
		this.#handlers.get(type).add(entry)
		return () => void this.#handlers.get(type).delete(entry)
	}

	send(value) {
		const asItIs = typeof value === "string" || value instanceof ArrayBuffer || ArrayBuffer.isView(value) || value instanceof Blob
		const message = asItIs ? value : JSON.stringify(value)
		if (message === undefined) throw new TypeError(`grouphub: send: ${typeof value} has no JSON`)
		if (this.#socket?.readyState === OPEN) return this.#socket.send(message)
		if (this.#ended) throw new Error("grouphub: send: closed")
		if (this.#queue.length >= this.#options.queue) {
			throw new Error(`grouphub: send: not connected, and ${this.#queue.length} messages wait`)
		}
		this.#queue.push(message)
	}

	close() {
		if (!this.#ended) this.#drop(1000, "")
	}

	#connect() {
		clearTimeout(this.#timer)
		this.#socket?.close()
		const {WebSocket, protocols, timeout} = this.#options
		const [url, forgotten] = this.#address()
		const socket = this.#socket = new WebSocket(url, protocols)
		const current = react => event => { if (socket === this.#socket) react(event) }
		socket.binaryType = "arraybuffer"
		socket.onopen = current(() => {
			clearTimeout(this.#timer)
			this.#timer = setTimeout(() => { this.#attempts = 0 }, stableAfter)
			for (const message of this.#queue.splice(0)) socket.send(message)
			this.#emit("open")
		})
		socket.onmessage = current(({data}) => this.#receive(data))
		socket.onclose = current(event => this.#lost(event))
		// In a browser each error is followed by its close at once. Some Node 22 leave that
		// out, and the package ws throws an error that nobody listens to.
		socket.onerror = () => setTimeout(current(() => this.#lost({})))
		this.#timer = setTimeout(() => this.#drop(1006, "timeout"), timeout)
		for (const group of forgotten) this.#emit("resync", group, {type: "resync", group})
	}

	// The URL with the position of each group, and the groups that had no room in it.
	#address() {
		const url = new URL(this.#url), forgotten = []
		if (this.#options.resume) {
			let resume = ""
			for (const [group, id] of [...this.#positions].reverse()) {
				const position = `&${new URLSearchParams({resume: `${group}@${id}`})}`
				if (resume.length + position.length <= maxResumeLength) resume += position
				else if (this.#positions.delete(group)) forgotten.push(group)
			}
			// As text: searchParams would write the caller's own parameters anew.
			url.search = (url.search + (resume || "&resume=")).replace(/^&/, "")
		}
		return [url.href, forgotten]
	}

	#receive(data) {
		let event
		try {
			event = JSON.parse(data)
		} catch {} // not ours, but the application may send what it likes
		if (typeof event?.type !== "string") return this.#emit("message", data)
		const {type, group, id} = event, isPosition = type === "grouphub.position"
		if (typeof id === "string" || isPosition) {
			this.#positions.delete(group) // to become the last one
			if (id && typeof group === "string") this.#positions.set(group, id)
		}
		if (isPosition) return
		// The position stays: what is sent between now and the next event is still to be
		// asked for, and a second resync is better than a gap that nobody hears of.
		if (type === "resync") return this.#emit(type, group, event)
		const reserved = ["open", "close", "message"].includes(type)
		this.#emit(!reserved && this.#handlers.get(type)?.size ? type : "*", event.data, event)
	}

	// Ends the current connection without waiting for the other side, which may be gone.
	#drop(code, reason) {
		this.#socket?.close(code === 1000 ? code : undefined)
		this.#lost({code, reason})
	}

	#lost({code, reason = ""}) {
		code ||= 1006 // an error has no code, and Deno says 0 where a browser says 1006
		this.#socket = undefined
		clearTimeout(this.#timer)
		const willReconnect = code !== 1000 && code !== 1008 && !(code >= 4400 && code < 4500)
		let delay = 0
		if (willReconnect) {
			const {minDelay, maxDelay} = this.#options
			delay = minDelay + Math.random() * (Math.min(maxDelay, minDelay * 2 ** ++this.#attempts) - minDelay)
			this.#timer = setTimeout(() => this.#connect(), delay)
		} else {
			this.#ended = true
			this.#listening.abort()
		}
		this.#emit("close", {code, reason, willReconnect, delay}) // may call close, or send
		if (!willReconnect) for (const entries of this.#handlers.values()) entries.clear()
	}

	#emit(type, ...args) {
		const entries = this.#handlers.get(type)
		for (const entry of [...entries ?? []]) {
			if (!entries.has(entry)) continue // since removed, by an earlier one perhaps
			try {
				entry.handler(...args)
			} catch (error) {
				(globalThis.reportError ?? console.error)(error)
			}
		}
	}
}
