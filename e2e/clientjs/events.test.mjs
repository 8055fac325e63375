// What client.d.ts promises about handlers.

import assert from "node:assert/strict"
import {test} from "node:test"

import {advance, connect, last, page} from "./fakes.mjs"

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
