// Types of client.js, and what it promises. Copy both to where your build finds them,
// or let the server serve client.js: grouphub.ClientJS.

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
	/** The close code; 1006 if the connection broke, timed out, or could not be made. */
	code: number
	reason: string
	/** Whether a further attempt follows. It does, but for the codes 1000, 1008 and 4400 to 4499. */
	willReconnect: boolean
	/** Milliseconds until that attempt; 0 if there is none. */
	delay: number
}

export interface GroupHubOptions {
	/** How many messages `send` keeps while there is no connection. Default 0: it throws instead. */
	queue?: number
	/** Whether to ask the server for what was missed, and so whether URLs get `resume`. Default true. */
	resume?: boolean
	/** Subprotocols to offer, as for a WebSocket. */
	protocols?: string | string[]
	/** No attempt comes sooner after a close, in milliseconds. Default 250. */
	minDelay?: number
	/** Nor later than this, in milliseconds. Default 30000. */
	maxDelay?: number
	/** What takes longer to open is given up, in milliseconds. Default 20000. */
	timeout?: number
	/** The constructor, where it is not global: that of the package ws, or a test's. */
	WebSocket?: new (url: string, protocols?: string | string[]) => any
}

/**
 * A connection to a grouphub server that comes back by itself.
 *
 * It runs in pages, in workers, in Node from version 22 on, and in Deno.
 *
 * **Reconnecting.** It comes back after every close but 1000, 1008 and 4400 to 4499, by
 * which a server says that there is no point. The delay is random between `minDelay` and
 * twice that, four times, and so on up to `maxDelay`; the series begins anew after a
 * connection that lasted five seconds. It tries at once when the browser is online
 * again, and when the page becomes visible; when the browser goes offline, or the page is
 * left, the connection counts as lost.
 *
 * **Resuming.** It keeps the last position of each group it hears of, and puts them all
 * into the URL of the next connection: `?resume=<group>@<id>`, repeated, or an empty
 * `resume=` as long as it knows none. Positions beyond 6,000 characters are given up, those
 * of the quietest groups first, which "resync" tells. Positions end with the page.
 *
 * **Sending** says nothing about arriving. What was sent right before a connection broke
 * may be lost, and what must not be, the server has to confirm.
 */
export class GroupHub {
	/**
	 * Connects at once. The URL may be relative to the page, and `http` stands for `ws`,
	 * `https` for `wss`; its query stays as it is. Throws if it is not a URL.
	 */
	constructor(url: string | URL, options?: GroupHubOptions)

	/** Each time a connection is open, and what waited to be sent is on its way. */
	on(type: "open", handler: () => void): () => void
	/**
	 * Each time a connection, or an attempt at one, has ended; once without `willReconnect`.
	 * An attempt that is begun anew because the browser is online again has not ended.
	 */
	on(type: "close", handler: (close: GroupHubClose) => void): () => void
	/** Events of this group may have been lost for good: load anew what it is about. */
	on(type: "resync", handler: (group: string, event: GroupHubEvent) => void): () => void
	/** A message that is not a JSON object with a string `type`, as it came. */
	on(type: "message", handler: (data: string | ArrayBuffer) => void): () => void
	/**
	 * An event of this type; "*" takes those of the types that have no handler, and of
	 * types named like the four above.
	 *
	 * The handlers of a type are called in the order they were added, one that was added
	 * twice twice. What one throws goes to `reportError`, or to the console where there is
	 * none, and keeps nobody else from anything. The returned function removes the handler.
	 */
	on<T = any>(type: string, handler: (data: T, event: GroupHubEvent<T>) => void): () => void

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
	 * Closes with 1000 and for good: "close" handlers are called before it returns, and no
	 * handler is afterwards. Closing twice is closing once.
	 */
	close(): void
}
