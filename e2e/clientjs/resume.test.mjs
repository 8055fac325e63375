// What client.d.ts promises about positions.

import assert from "node:assert/strict"
import {test} from "node:test"

import {advance, connect, last, resumes, url} from "./fakes.mjs"

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
