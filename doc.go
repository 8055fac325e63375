// Package grouphub pushes to browsers from an existing net/http application. It
// gives the application what Django Channels gives Django: WebSocket consumers, a
// channel name for each connection, groups, and a channel layer that carries events
// between processes.
//
// A [Hub] is mounted on any mux. Each connection is served by a [Consumer], joins
// groups, and is sent events by backend code, wherever it runs:
//
//	hub := grouphub.New(nil)
//	mux.Handle("/ws/chat/{room}", hub.Handler(grouphub.Consumer{
//		Connect: func(c *grouphub.Conn) error {
//			return c.Join("room:" + c.PathValue("room"))
//		},
//		Events: grouphub.Events{"chat.message": grouphub.Forward()},
//	}))
//	...
//	err := hub.GroupSend(ctx, "room:lobby", "chat.message", message)
//
// # What the package promises
//
//   - Mounting. Any router works, and any middleware that supports
//     http.ResponseController. A plain HTTP request gets 426, a refused origin 403, a
//     full hub and one that shuts down 503, each with one line of text.
//   - One consumer, any client. The same handler serves a WebSocket and, to a GET whose
//     Accept names text/event-stream, an event stream, with the same callbacks, groups,
//     limits, replays, Stats and Shutdown; [Conn.Stream] tells which it is. A POST with a
//     stream's token is a message for its Receive, on any hub of the layer.
//   - Resume without a library, for streams too. An EventSource that comes back by itself,
//     to any hub, goes on in all its groups with history without a gap or a repeat. It does not
//     come back from an error, so that what refuses it for a time is a stream that is closed.
//   - Same origin by default. A browser's request from a page of another origin is
//     refused unless [AllowOrigins] names it, and one with two Origin headers is always
//     refused. Requests without an Origin header pass. The server's own origin is that of
//     a page of http or https whose host and port the request names; [AllowHosts] says
//     which hosts a request may name.
//   - Connect is part of the request: it runs before the mounted handler returns.
//   - Open means joined. A client sees its connection open when Connect has returned: the
//     answer to the handshake, and whatever Connect sent, leave then. They leave earlier
//     only where Connect sends more than half of MaxPending, or waits in SendWait or for a
//     replay, which needs the client. A Connect that fails still ends in its close code.
//   - One at a time, and Disconnect can still act: see [Consumer].
//   - Left means left, joined means joined: see [Conn.Leave] and [Conn.Join].
//   - Order. Events that one goroutine sends to one group, each after the last
//     returned nil, arrive in that order, and all members of a group on one hub see
//     one order; in a group with history all members everywhere do. There, a connection
//     gets all of a group's events in that order, whatever handles them: what is behind a
//     Handle call waits for it. So it is in a group with a Snapshot. In any other group
//     Forward and Render frames keep the order among themselves, Handle calls among
//     themselves; neither waits for the other. There is no order across groups, nor between group events and [Conn.Send].
//   - Senders never wait for receivers. A connection that cannot keep up gets a backlog
//     of MaxPending bytes; past that it is sent 1013 and is cut off CloseTimeout later.
//     No other connection notices. Bytes given to the kernel count as delivered.
//   - A client that never reads harms nobody, on a WebSocket or an event stream, over TLS and
//     over HTTP/2. Of HTTP/2 only the streams are the hub's to end: a connection that takes
//     nothing at all is ended by http.Server's HTTP2.WriteByteTimeout, if that is set.
//   - Latest wins. Of events with the same [Latest] key in a group, a connection that is
//     behind gets the last one and is not closed for the others: one value for each key at
//     the most waits. One that keeps up may get them all. What was replaced counts as
//     Superseded, not Dropped. In a group with history ids skip what was replaced, and resume
//     stays exact about the rest. All of this is for each connection by itself: an event that
//     one is excepted from replaces nothing for it. Where keys of more than MaxPending bytes
//     would wait, the connection gets a Resync, or a snapshot in a group that has them, once
//     it has had what waits.
//   - Sending that waits. [Conn.SendWait] returns when what waits has room for the message,
//     with the context's error, or with [ErrClosed]. A backlog of any size reaches a slow
//     client that keeps reading. A message that is larger than MaxPending waits until nothing
//     else does; events of groups keep their own limit beside it.
//   - Fast senders are slowed. A client that sends more than ReceiveRate is read at that
//     rate, messages, fragments and control frames alike, before anything is inflated: what
//     it sends waits in the network, and nothing is lost. It is not closed for it.
//   - Nothing is lost in silence. In a group with history, an event that GroupSend has
//     accepted and the layer kept reaches every member exactly once and in order, across a
//     lost subscription and a client's reconnect, as long as history covers the gap. Where
//     it does not, and in groups without history, Resync tells exactly the connections
//     concerned, between what was sent before the loss and what was sent after it. Every drop is counted in [Stats]. A failover of Redis may lose an event
//     that no hub has seen: whenever such a failover is noticed, there is a Resync. A
//     subscription that is silently dead is noticed within 15 seconds.
//   - A page cannot be stale. In a group with a Snapshot a member first gets an event of
//     type "snapshot" with the group's state, and then everything that was sent after the
//     position it stands at; a resume that the history covers spares it the snapshot.
//     Wherever a Resync would be due, a new snapshot goes out instead, and nothing of the
//     group before it: see [Conn.Join]. One load for a group and hub runs at a time, all who
//     wait share it and its frame, and one that blocks or fails concerns its group alone.
//   - Position for a rendered page. [Hub.Position], taken before the page's query, as ?resume=
//     in the URL that the page connects to: nothing between rendering and connecting is
//     missed.
//   - One policy: every process that sends to or joins a group uses the same Policy. A
//     hub that notices a process which does not logs an error and counts PolicyMismatch.
//   - Errors are the sender's. Every call that goes through the layer, except Receive,
//     ends with its context or after five seconds, whichever is first, with
//     [ErrUnavailable] or [ErrUncertain] when the layer is down. Sockets stay open; a
//     callback that returns either of them closes its own with 1013.
//   - Text is text: a text message that is not UTF-8 closes its sender with 1007.
//   - The commit is the send: with [Via] and the outbox of package postgres an event is written
//     in the caller's transaction, and goes out if, and only if, that commits.
//   - The way in from elsewhere: [PublishHandler] takes events from programs that are not
//     written in Go, by POST.
//   - A layer belongs to whoever made it: Shutdown closes only one that New made.
//   - Event types without a handler are counted, logged at debug level, and go no further.
//   - A panic in a callback closes that connection with 1011 and is logged with its
//     stack. Every other connection goes on.
//   - Logout works: end the session, then GroupClose(ctx, UserGroup(id), 4401, "logged
//     out"), which reaches a hub that is cut off as soon as it is back. An upgrade that was
//     already authenticated can miss it: [User].Expires is the backstop.
//   - Who comes and goes: with [GroupPolicy].Announce, members are told of users who join a group
//     with the first of their connections and leave it with the last, on all hubs together. A
//     reconnect within 5 s is no leaving, and the members of a hub that has crashed have left
//     within 90 s.
//   - Logout of one session: with [OnlySession] the user's other sessions stay open. Events sent
//     to the group after GroupClose has returned are not pushed to the closed ones.
//   - Sessions can be prolonged: [Hub.Renew], on every hub, and [Conn.SetUser] move
//     [User].Expires while the connection lives; SetUser also logs in on an anonymous one.
//   - Tokens: [Bearer] reads the Authorization header, else the subprotocol
//     grouphub.bearer.<token>, else the URL parameter access_token, which nothing behind
//     Authenticate sees. Options.Refuse hears of all that the hub and its consumers refuse.
//   - A user's group is nobody else's: only [Authenticate], [WithUser] and
//     [Conn.SetUser] make members of it.
//   - Names of groups, channels and events are 1 to 255 bytes of UTF-8 without control
//     characters; anything else is [ErrInvalidName] and nothing happens. [Hub.Send] says
//     what the names of channels mean.
//   - A subscriber without a socket: [Hub.Subscribe] has joined when it returns nil, and calls a
//     function with the group's events, one at a time and in order, until its context ends.
//     What it may have missed comes as an event of type "resync", or "snapshot".
//   - Shutdown returns nil when every connection is closed and every callback has
//     returned; no goroutine is left.
package grouphub
