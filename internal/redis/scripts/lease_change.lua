-- Changes a lease, which is a hash of its fields and of "v", its version.
-- KEYS: the index, the lease.
-- ARGV:
--   1  holder
--   2  life; 0 ends the lease
--   3  the version that is changed; 0 replaces any
--   4  the version afterwards
--   5  how many fields are set, and then their names and values, and the names of fields that
--      are removed
--
-- Returns 1, or 0 if the change does not fit the version that is kept. A server that refuses
-- writes refuses the first of them, so nothing has changed then.
local lease, holder, life, after, version = KEYS[2], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local kept = redis.pcall('HGET', lease, 'v')
if type(kept) == 'table' then -- the key is none of ours
  redis.call('DEL', lease)
  kept = false
end
local entry = redis.pcall('HGET', index, holder)
if type(entry) == 'string' and not live(entry) then -- it has ended, though its key lasts some milliseconds longer
  kept = false
end
local replaces = after == '0' or life == 0
if replaces and kept and (tonumber(kept) or 0) > tonumber(version) then return 0 end
if not replaces and kept ~= after then return 0 end
if life == 0 then
  redis.call('DEL', lease)
else
  if replaces or version ~= after then redis.call('HSET', lease, 'v', version) end
  if replaces then -- only now, since a server that is full accepts this, and then the rest
    redis.call('DEL', lease)
    redis.call('HSET', lease, 'v', version)
  end
  local first = 6 + 2 * tonumber(ARGV[5])
  for i = 6, first - 1, 200 do -- unpack takes some thousands at most
    redis.call('HMSET', lease, unpack(ARGV, i, math.min(i + 199, first - 1)))
  end
  for i = first, #ARGV, 200 do
    redis.call('HDEL', lease, unpack(ARGV, i, math.min(i + 199, #ARGV)))
  end
  redis.call('PEXPIRE', lease, life)
end
local all = entries()
if not all then
  redis.call('DEL', index)
  all = {}
end
for i = 1, #all, 2 do
  if not live(all[i + 1]) then redis.call('HDEL', index, all[i]) end
end
if life == 0 then
  redis.call('HDEL', index, holder)
else
  redis.call('HSET', index, holder, string.format('%.0f', now + life) .. ' ' .. version)
  if redis.call('PTTL', index) < life then redis.call('PEXPIRE', index, life) end
end
return 1
