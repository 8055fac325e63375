-- Sets or prolongs a lease.
-- ARGV: holder, life, and perhaps a value. Without one the lease is prolonged, if there is
-- one. Returns 1, or 0 if there was nothing to prolong.
if ARGV[3] then
  redis.call('HSET', values, ARGV[1], ARGV[3])
elseif redis.call('HEXISTS', values, ARGV[1]) == 0 then
  return 0
end
redis.call('ZADD', ends, string.format('%.0f', now + ARGV[2]), ARGV[1])
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1
