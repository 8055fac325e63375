-- Returns what each of the leases has: names and values, one behind the other.
-- KEYS: the leases.
local leases = {}
for i, key in ipairs(KEYS) do
  leases[i] = redis.pcall('HGETALL', key)
  if leases[i].err then leases[i] = {} end -- the key is none of ours
end
return leases
