-- Sets or prolongs a lease.
-- ARGV: holder, life, and perhaps a value. Without one the lease is prolonged, if there is
-- one. Returns 1, or 0 if there was nothing to prolong.
local value, finish = 'v:' .. ARGV[1], 'e:' .. ARGV[1]
if ARGV[3] then
  redis.call('HSET', leases, value, ARGV[3])
elseif redis.call('HEXISTS', leases, value) == 0 then
  return 0
end
redis.call('HSET', leases, finish, string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', leases) < tonumber(ARGV[2]) then redis.call('PEXPIRE', leases, ARGV[2]) end
return 1
