-- Publishes a heartbeat, with the time in microseconds.
-- KEYS: the channel.
-- ARGV:
--   1  what comes behind the time
--   2  PUBLISH or SPUBLISH
local now = redis.call('TIME')
return redis.call(ARGV[2], KEYS[1], now[1] .. string.format('%06d', tonumber(now[2])) .. ' ' .. ARGV[1])
