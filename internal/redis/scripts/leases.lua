-- The leases of a topic are two keys of one slot: a hash of holder to value, and a sorted
-- set of the holders by the end of their lease. Times are the server's, in milliseconds.
-- This part begins each script on them and finds the leases that are over.

local values, ends = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now))
