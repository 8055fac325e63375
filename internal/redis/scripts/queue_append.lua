-- Adds a message, unless the queue is full.
-- ARGV: life, id, message, capacity, expiry, and what wakes takers: PUBLISH or SPUBLISH,
-- channel, payload. Returns 1, or 0 if the queue is full. That the server refuses to wake
-- takers is no error: they look by themselves, too, and the message is there.
local head = redis.call('LINDEX', waiting, 0)
while head and not message(head) do
  redis.call('LPOP', waiting)
  head = redis.call('LINDEX', waiting, 0)
end
if redis.call('LLEN', waiting) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', messages, ARGV[2], string.format('%.0f', now + ARGV[5]) .. ':' .. ARGV[3])
redis.call('RPUSH', waiting, ARGV[2])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
redis.pcall(ARGV[6], ARGV[7], ARGV[8])
return 1
