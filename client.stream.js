// What client.js loads once a WebSocket may have met a proxy that lets none pass: an event
// stream that looks like a WebSocket, and the choice between the two.

const CONNECTING = 0, OPEN = 1, CLOSED = 3

// So many WebSockets in a row that may have met a proxy, and a stream is tried.
const failuresUntilStream = 2

// All times are in milliseconds.

// When a stream has lasted this long, one WebSocket is tried beside it, and holds if it is
// open for provenAfter.
const probeAfter = 60000, provenAfter = 5000

// A request for a stream without an answer is made again after this. The browser may have
// used a connection that it had kept, and whose path is dead.
const hangsAfter = 6000

// A POST whose answer was lost, or that may be repeated, is sent again after this.
const repeatAfter = 1000

// A Fallback chooses between WebSockets and streams for one client.
export class Fallback {
	#transport // "auto" or "stream"
	#WebSocket
	#protocols
	#last = "websocket"
	#sticky = false // streams pass, and WebSockets do not

	constructor(transport, WebSocket, protocols) {
		this.#transport = transport
		this.#WebSocket = WebSocket
		this.#protocols = protocols
	}

	// Returns a StreamSocket, or undefined where a WebSocket is to be tried; failures of them in
	// a row may have met a proxy.
	open(address, failures) {
		this.#last = this.#choose(failures)
		if (this.#last === "websocket") return
		const stream = new StreamSocket(address, this.#protocols)
		stream.opened = () => {
			this.#sticky = true
			if (this.#transport === "auto") stream.probe = setTimeout(() => this.#probe(stream, address), probeAfter)
		}
		stream.refused = () => { this.#sticky = false }
		return stream
	}

	// After too many failures the two alternate, until one of them works.
	#choose(failures) {
		if (this.#transport === "stream" || this.#sticky) return "stream"
		return failures >= failuresUntilStream && this.#last === "websocket" ? "stream" : "websocket"
	}

	// Tries one WebSocket beside a stream: the failures may have been those of a server that
	// was being restarted. If it holds, the next connection is a WebSocket.
	#probe(stream, address) {
		const socket = new this.#WebSocket(withoutOwnParameters(address), this.#protocols)
		let proof
		socket.onopen = () => {
			proof = setTimeout(() => {
				socket.close()
				if (stream.readyState !== OPEN) return
				this.#sticky = false
				this.#last = "stream" // after which a WebSocket is next, however many have failed
				stream.end({code: 1006, reason: "websocket", delay: 0})
			}, provenAfter)
		}
		socket.onclose = socket.onerror = () => clearTimeout(proof)
	}
}

// withoutOwnParameters returns an address without what client.js has added to it.
function withoutOwnParameters(address) {
	const url = new URL(address)
	url.search = url.search.slice(1).split("&").filter(parameter => !/^(heartbeat|resume)=/.test(parameter)).join("&")
	return url.href
}

// A StreamSocket is an event stream with a WebSocket's interface, as far as client.js uses
// it. A message is sent by a POST, one at a time, each with its number: if an answer is lost
// the message is sent again, and the server knows it by the number.
export class StreamSocket {
	transport = "stream"
	readyState = CONNECTING
	onopen
	onmessage
	onclose // as for a WebSocket, but delay may say when to come back
	opened // for Fallback, and so are the next two
	refused
	probe
	#address // for fetch
	#headers = {}
	#abort = new AbortController() // of the stream's request, and of the messages
	#token // by which the server knows the stream in a POST; undefined until it is open
	#last = 0 // number of the message that was sent last
	#outgoing = [] // messages; the first one may be under way
	#closing = false // the stream ends when nothing is under way any more
	#buffer = "" // the block that has not come whole
	#searched = 0 // so much of the buffer has no end of a block

	constructor(address, protocols) {
		this.#address = address.replace("ws", "http")
		// A page cannot give a WebSocket a header, and hides its token among the subprotocols.
		const [, token] = `${protocols}`.match(/(?:^|,)grouphub\.bearer\.([^,]+)/) ?? []
		if (token) this.#headers.Authorization = `Bearer ${token}`
		this.#read().catch(error => this.end({code: 1006, reason: `${error}`}))
	}

	send(message) {
		this.#outgoing.push(message)
		if (this.#outgoing.length === 1) this.#post()
	}

	// Ends the stream without an event. What was sent before a close with 1000 still goes out.
	close(code) {
		if (code === 1000 && this.#outgoing.length) this.#closing = true
		else this.#stop()
	}

	// Ends the stream with an event.
	end(event) {
		if (this.readyState === CLOSED) return
		if (!this.#token) this.refused?.()
		this.#stop()
		this.onclose?.(event)
	}

	#stop() {
		this.readyState = CLOSED
		clearTimeout(this.probe)
		this.#abort.abort()
	}

	#fetch(address, options) {
		return fetch(address, {cache: "no-store", credentials: "include", signal: this.#abort.signal, ...options})
	}

	// Asks for the stream until there is an answer.
	async #request() {
		for (;;) {
			let hangs = false
			const timer = setTimeout(() => {
				hangs = true
				this.#abort.abort()
			}, hangsAfter)
			try {
				return await this.#fetch(this.#address, {headers: {...this.#headers, Accept: "text/event-stream"}})
			} catch (error) {
				if (!hangs || this.readyState === CLOSED) throw error
				this.#abort = new AbortController()
			} finally {
				clearTimeout(timer)
			}
		}
	}

	async #read() {
		const answer = await this.#request()
		if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) return this.end(await refusal(answer))
		const reader = answer.body.getReader(), decoder = new TextDecoder()
		for (;;) {
			const {done, value} = await reader.read()
			if (done) return this.end({code: 1006})
			this.#take(decoder.decode(value, {stream: true}))
		}
	}

	// Takes what has come: blocks that end with an empty line.
	#take(text) {
		this.#buffer += text
		let heard = false
		for (;;) {
			const end = this.#buffer.indexOf("\n\n", this.#searched)
			if (end < 0) break
			const block = this.#buffer.slice(0, end)
			this.#buffer = this.#buffer.slice(end + 2)
			this.#searched = 0
			heard = this.#handle(block) || heard
			if (this.readyState === CLOSED) return
		}
		this.#searched = Math.max(0, this.#buffer.length - 1)
		// A comment, or a part of a large event, shows that the stream is alive.
		if (!heard && this.#token) this.onmessage?.({data: `{"type":"grouphub.heartbeat"}`})
	}

	// Handles a block, and returns whether that was a message.
	#handle(block) {
		const data = []
		let event, retry
		for (const line of block.split("\n")) {
			const [, field, value] = line.match(/^(\w+): ?(.*)$/s) ?? []
			if (field === "data") data.push(value)
			else if (field === "event") event = value
			else if (field === "retry") retry = Number(value)
		}
		const text = data.join("\n")
		switch (event) {
		case "grouphub.open":
			this.#token = text
			this.readyState = OPEN
			this.opened?.()
			this.onopen?.({})
			return true
		case "grouphub.close":
			this.end({...JSON.parse(text), delay: retry})
			return true
		case "grouphub.position": // for an EventSource
			return false
		case "grouphub.binary":
			this.onmessage?.({data: Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer})
			return true
		}
		if (data.length) this.onmessage?.({data: text})
		return data.length > 0
	}

	// Sends what is outgoing, in order.
	async #post() {
		while (this.#outgoing.length && this.readyState !== CLOSED) {
			const event = await this.#postOne(this.#outgoing[0], ++this.#last)
			if (event) return this.end(event)
			this.#outgoing.shift()
		}
		if (this.#closing) this.#stop()
	}

	// Sends one message until the server has it. It returns how the stream ends if the
	// server does not want it.
	async #postOne(message, number) {
		const headers = {...this.#headers, "Grouphub-Stream": this.#token, "Grouphub-Seq": number}
		if (typeof message !== "string") headers["Content-Type"] = "application/octet-stream"
		while (this.readyState !== CLOSED) {
			try {
				const answer = await this.#fetch(withoutOwnParameters(this.#address), {method: "POST", headers, body: message})
				if (answer.ok) return
				if (answer.status === 413) return {code: 1009, reason: "message too large"}
				// Whether coming back is pointless, the next stream will hear.
				if (answer.status < 500 && answer.status !== 429) return {code: 1006, reason: `POST: ${answer.status}`}
			} catch {} // the answer was lost, and perhaps the message
			await new Promise(resume => setTimeout(resume, repeatAfter))
		}
	}
}

// refusal returns the end of a stream that an answer means. What is no clear refusal is an
// accident.
async function refusal(answer) {
	const {status} = answer, reason = (await answer.text()).trim().slice(0, 123)
	const seconds = Number(answer.headers.get("retry-after"))
	return {
		code: [401, 403, 404, 410].includes(status) ? 4000 + status : 1006,
		reason,
		delay: seconds ? seconds * (1000 + Math.random() * 250) : undefined,
	}
}
