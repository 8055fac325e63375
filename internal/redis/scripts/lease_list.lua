-- Returns holders and values, one behind the other. It writes nothing, so that a server
-- that refuses writes can be asked.
local all = redis.pcall('HGETALL', leases)
if all.err then all = {} end -- the key is none of ours
local ends, live = {}, {}
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'e:' then ends[string.sub(all[i], 3)] = all[i + 1] end
end
for i = 1, #all, 2 do
  local name = string.sub(all[i], 3)
  if string.sub(all[i], 1, 2) == 'v:' and not is_over(ends[name]) then
    live[#live + 1] = name
    live[#live + 1] = all[i + 1]
  end
end
return live
