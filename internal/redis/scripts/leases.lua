-- The leases of a topic are one key, a hash that has two fields for each holder: "v:" and
-- its name is the value, "e:" and its name the end of the lease, by the server's clock, in
-- milliseconds since 1970. A value without an end and an end without a value are no lease.
-- This part begins each script on them.
local leases = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_over(finish)
  local at = tonumber(finish)
  return not at or at <= now
end
