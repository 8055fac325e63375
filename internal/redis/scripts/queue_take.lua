-- Takes the first message, under a lease.
-- ARGV: life, lease. Returns its id and the message, or nothing.
local id = redis.call('LPOP', waiting)
while id do
  local value = message(id)
  if value then
    redis.call('ZADD', taken, string.format('%.0f', now + ARGV[2]), id)
    redis.call('PEXPIRE', taken, ARGV[1])
    return {id, value}
  end
  id = redis.call('LPOP', waiting)
end
return {}
