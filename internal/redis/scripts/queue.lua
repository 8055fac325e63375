-- A queue is three keys of one slot: a hash of id to deadline and message, a list of the
-- ids that wait, and a sorted set of those that are taken, by the end of their lease.
-- Times are the server's, in milliseconds. ARGV[1] is the life of the keys, which outlives
-- every message. This part begins each script on a queue: it returns to the front of the
-- list whatever was taken and not handed over in time.
local messages, waiting, taken = KEYS[1], KEYS[2], KEYS[3]
for i, want in ipairs({'hash', 'list', 'zset'}) do
  local has = redis.call('TYPE', KEYS[i]).ok
  if has ~= want and has ~= 'none' then redis.call('DEL', KEYS[i]) end -- it is none of ours
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function message(id)
  local value = redis.call('HGET', messages, id)
  if not value then return nil end
  local deadline, rest = string.match(value, '^(%d+):()')
  if not deadline or tonumber(deadline) <= now then -- or it is no message of ours
    redis.call('HDEL', messages, id)
    return nil
  end
  return string.sub(value, rest)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', taken, '-inf', now)) do
  redis.call('ZREM', taken, id)
  redis.call('LPUSH', waiting, id)
  redis.call('PEXPIRE', waiting, ARGV[1])
end
