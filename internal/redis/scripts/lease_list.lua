-- Returns holders and the versions of their leases, one behind the other. It writes nothing, so
-- that a server that refuses writes can be asked.
local all, listed = entries() or {}, {}
for i = 1, #all, 2 do
  local version = live(all[i + 1])
  if version then
    listed[#listed + 1] = all[i]
    listed[#listed + 1] = version
  end
end
return listed
