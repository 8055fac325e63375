-- The index of a topic's leases is a hash. It has a field for each holder, "<end> <version>", in
-- which the end is by the server's clock, in milliseconds since 1970. This part begins each
-- script on it.
local index = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- entries returns holders and what the index says of them, one behind the other, and nil if the
-- key is none of ours.
local function entries()
  local all = redis.pcall('HGETALL', index)
  if not all.err then return all end
end
-- live returns the version of a lease that has not ended, and nil of any other.
local function live(entry)
  local finish, version = string.match(entry, '^(%d+) (%d+)$')
  if finish and tonumber(finish) > now then return version end
end
