-- Removes the leases that are over. Every script that may write has it behind leases.lua.

for _, holder in ipairs(over) do
  redis.call('ZREM', ends, holder)
  redis.call('HDEL', values, holder)
end
