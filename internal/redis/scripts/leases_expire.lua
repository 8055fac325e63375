-- Removes the leases that are over, and what is none. Every script that may write has it
-- behind leases.lua. Only names and ends are read: the values may be long.
local fields, names, has = redis.pcall('HKEYS', leases), {}, {}
if fields.err then -- the key is none of ours
  redis.call('DEL', leases)
  fields = {}
end
for _, field in ipairs(fields) do
  has[field] = true
  if string.sub(field, 1, 2) == 'e:' then names[#names + 1] = string.sub(field, 3) end
end
for _, field in ipairs(fields) do
  if not has['e:' .. string.sub(field, 3)] then redis.call('HDEL', leases, field) end
end
for _, name in ipairs(names) do
  if not has['v:' .. name] or is_over(redis.call('HGET', leases, 'e:' .. name)) then
    redis.call('HDEL', leases, 'v:' .. name, 'e:' .. name)
  end
end
