// Types of client.js, and what it promises. Copy client.js, client.stream.js and this to
// where your build finds them, or let the server serve the two: grouphub.ClientJS.

/** What a Forward handler of the server sends, as JSON. */
export interface GroupHubEvent<T = any> {
	type: string
	group?: string
	/**
	 * The event's position, if its group keeps history. It means something to the server only:
	 * a message of the application's own that has a `type`, a `group` and an `id` is taken for one.
	 */
	id?: string
	data?: T
}

export interface GroupHubClose {
	/**
	 * The close code; 1006 if the connection broke, timed out, fell silent, or could not be
	 * made; 4401, 4403, 4404 or 4410 if the server answered with the HTTP status 401 and so on.
	 */
	code: number
	reason: string
	/**
	 * Whether a further attempt follows. It does, but for the codes 1000, 1008 and 4400 to
	 * 4499, unless `retry` says otherwise.
	 */
	willReconnect: boolean
	/** Milliseconds until that attempt; 0 if it comes at once, or if there is none. */
	delay: number
}

export interface OnOptions {
	/** Removes the handler when it is aborted. */
	signal?: AbortSignal
	/** Removes the handler when it is called. */
	once?: boolean
}

export interface GroupHubOptions {
	/**
	 * How many messages `send` keeps while there is no connection. Default 0: it throws instead.
	 * They are handed over when a connection has been open for half a second, since one that
	 * a server in trouble accepts often ends at once; until then later ones wait behind them.
	 */
	queue?: number
	/** Whether to ask the server for what was missed, and so whether URLs get `resume`. Default true. */
	resume?: boolean
	/**
	 * From where to resume the first time: what `positions` of another GroupHub was, or, for a
	 * page that the server has rendered, what Hub.Position said before its query. Default none.
	 */
	positions?: Record<string, string>
	/** Subprotocols to offer, as for a WebSocket. */
	protocols?: string | string[]
	/** No attempt comes sooner after a close, in milliseconds. Default 250. */
	minDelay?: number
	/** Nor later than this, in milliseconds. Default 30000. */
	maxDelay?: number
	/**
	 * What takes longer to open is given up, in milliseconds. Default 20000. Where a stream may
	 * take its place, a WebSocket is given up after six seconds already.
	 */
	timeout?: number
	/**
	 * How long the server may say nothing, in milliseconds; it sends something then, of which
	 * handlers do not hear. Default 25000; 0 asks for nothing, and silence means nothing then.
	 * The server allows 5000 to 300000.
	 */
	heartbeat?: number
	/**
	 * "auto", the default, is a WebSocket, and an event stream where proxies let no WebSocket
	 * pass: see GroupHub. "websocket" and "stream" are the one or the other in any case.
	 */
	transport?: "auto" | "websocket" | "stream"
	/**
	 * The caller's word on whether another attempt follows a close with this code; undefined:
	 * as usual. Each close but those of `close` and `reconnect` is asked about, and what it
	 * throws counts as undefined.
	 */
	retry?: (code: number, reason: string) => boolean | undefined
	/** Closes, as `close` does, when it is aborted. */
	signal?: AbortSignal
	/**
	 * The constructor, where it is not global: that of the package ws, or a test's. Why such
	 * a one was refused is not looked into.
	 */
	WebSocket?: new (url: string, protocols?: string | string[]) => any
}

/**
 * A connection to a grouphub server that comes back by itself.
 *
 * It runs in pages, in workers, in Node from version 22 on, and in Deno. It works under a
 * Content-Security-Policy of `connect-src 'self'` and with Trusted Types, and leaves no
 * global behind.
 *
 * **Reconnecting.** It comes back after every close but 1000, 1008 and 4400 to 4499, by
 * which a server says that there is no point. The delay is random between `minDelay` and
 * twice that, four times, and so on up to `maxDelay`; the series begins anew after a
 * connection that lasted half a minute, which is longer than a server in trouble keeps one. It
 * tries at once when the browser is online again, and when the page becomes visible; when
 * the browser goes offline, or the page is left, the connection counts as lost.
 *
 * **A dead path** is noticed after two and a half times `heartbeat` without a word from the
 * server, and after one `heartbeat` when the page becomes visible, is thawed, or is online
 * again. (A message that takes longer than that to arrive, over a very slow network, is no
 * word until it is whole.)
 *
 * **Refusals.** A browser does not tell why a WebSocket could not be opened, so the same URL is
 * asked by `fetch`: the statuses 401, 403, 404 and 410 are final closes with the code 4000
 * more, and Retry-After is waited for. What cannot be read, from another origin say, changes
 * nothing.
 *
 * **Proxies.** Where WebSockets do not get through, an event stream takes their place: after
 * two WebSockets in a row that did not open within six seconds, or ended with 1006 within five
 * without a message. If the stream fails too, the two alternate. A stream that has opened is
 * kept to; a WebSocket is tried once beside it after a minute, and takes its place if it
 * holds. The part of the client for this, client.stream.js, is loaded when a WebSocket has
 * failed. Messages then go out by POST, in order, each once. Over HTTP/1.1 browsers open at
 * most six connections to a host: while six tabs have a stream each, a message waits until one
 * of them goes.
 *
 * **Resuming.** It keeps the last position of each group it hears of, and puts them all
 * into the URL of the next connection: `?resume=<group>@<id>`, repeated, or an empty
 * `resume=` as long as it knows none. The position of a group that the server has it leave
 * ends. Positions beyond 6,000 characters are given up, those of the quietest groups first,
 * which "resync" tells. Positions end with the page, unless it hands on `positions`.
 *
 * **Sending** says nothing about arriving. What was sent right before a connection broke
 * may be lost, and what must not be, the server has to confirm.
 *
 * `Events` says which data the application's events have: `GroupHub<{"chat.message": Message}>`.
 */
export class GroupHub<Events extends Record<string, any> = Record<string, any>> {
	/**
	 * Connects at once. The URL may be relative to the page, and `http` stands for `ws`,
	 * `https` for `wss`; its query stays as it is. Throws if it is not such a URL.
	 *
	 * A function is asked for the URL before each attempt, for a fresh token or another host.
	 * If it throws, rejects, or returns no URL, the attempt has failed, and "close" tells why.
	 */
	constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: GroupHubOptions)

	/** "connecting" until a connection is open, "waiting" for the next attempt, "closed" after the last. */
	readonly state: "connecting" | "open" | "waiting" | "closed"
	/** What the connection is, while one is open. */
	readonly transport: "websocket" | "stream" | undefined
	/** The position of each group, as of now: for another GroupHub, or to be kept for another page. */
	readonly positions: Record<string, string>

	/** Each time a connection is open. */
	on(type: "open", handler: () => void, options?: OnOptions): () => void
	/**
	 * Each time a connection, or an attempt at one, has ended; once without `willReconnect`,
	 * also while an attempt is waited for. An attempt that is begun anew because the browser is
	 * online again, or by `reconnect`, has not ended.
	 */
	on(type: "close", handler: (close: GroupHubClose) => void, options?: OnOptions): () => void
	/**
	 * Events of this group may have been lost for good: load anew what it is about. An empty
	 * name stands for any group: it comes in place of more than a thousand.
	 */
	on(type: "resync", handler: (group: string, event: GroupHubEvent) => void, options?: OnOptions): () => void
	/** Each time a group with history is joined, when what was missed has come. */
	on(type: "position", handler: (group: string) => void, options?: OnOptions): () => void
	/** A message that is not a JSON object with a string `type`, as it came. */
	on(type: "message", handler: (data: string | ArrayBuffer) => void, options?: OnOptions): () => void
	/**
	 * An event of this type; "*" takes those of the types that have no handler, and of
	 * types named like the five above.
	 *
	 * The handlers of a type are called in the order they were added, one that was added
	 * twice twice. What one throws goes to `reportError`, or to the console where there is
	 * none, and keeps nobody else from anything. The returned function removes the handler.
	 */
	on<K extends keyof Events & string>(type: K, handler: (data: Events[K], event: GroupHubEvent<Events[K]>) => void, options?: OnOptions): () => void
	on<T = any, K extends string = string>(
		// Not for the types in Events: there a mistake in the handler would make T any.
		type: K & (string extends keyof Events ? unknown : K extends keyof Events ? never : unknown),
		handler: (data: T, event: GroupHubEvent<T>) => void, options?: OnOptions,
	): () => void

	/**
	 * Sends strings, ArrayBuffers, their views and Blobs as they are, and everything else
	 * as the JSON it has at the time of the call.
	 *
	 * Without a connection the message waits, if `queue` has room, and goes out before all
	 * later ones once there is one; otherwise `send` throws an Error. After the last close
	 * it always throws, and what was still waiting is gone.
	 */
	send(value: unknown): void

	/**
	 * Connects now: in place of a wait, of an attempt, or of a connection that is open, which
	 * is closed; and also after the last close, with the handlers and positions that there
	 * were. Does nothing once `signal` is aborted.
	 */
	reconnect(): void

	/**
	 * Closes with 1000 and for good: "close" handlers are called before it returns, and no
	 * handler is afterwards, unless `reconnect` is called. Closing twice is closing once.
	 */
	close(): void
}
