-- Returns holders and values, one behind the other. It writes nothing, so that a server
-- that refuses writes can be asked.
local isOver, live = {}, {}
for _, holder in ipairs(over) do isOver[holder] = true end
local all = redis.call('HGETALL', values)
for i = 1, #all, 2 do
  if not isOver[all[i]] then
    live[#live + 1] = all[i]
    live[#live + 1] = all[i + 1]
  end
end
return live
