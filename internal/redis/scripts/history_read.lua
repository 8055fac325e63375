-- Returns the count, the entries from an id on, and the time in milliseconds. If there is no count, an epoch begins.
-- While the server refuses writes, it returns nothing in that case.
-- KEYS: the count, the stream.
-- ARGV:
--   1  the id
--   2  the count's least life
--   3  the life of a count that nothing was published in
--   4  the name of an epoch that begins
--   5  the nonce of its number 0
local count = read_string(KEYS[1])
local epoch, number = read_count(count)
local life = ARGV[2]
if not epoch then
  count, number = ARGV[4] .. ' 0 0 ' .. ARGV[5] .. ' ' .. ARGV[5], '0'
  if redis.pcall('SET', KEYS[1], count, 'PX', ARGV[3]).err then return {} end
  redis.call('DEL', KEYS[2])
end
if number == '0' then life = ARGV[3] end
if redis.call('PTTL', KEYS[1]) < tonumber(life) then redis.pcall('PEXPIRE', KEYS[1], life) end
local now = redis.call('TIME')
local entries = redis.pcall('XRANGE', KEYS[2], ARGV[1], '+')
if entries.err then entries = {} end -- the stream is none of ours, and the next publication begins it anew
return {count, entries, now[1] .. string.format('%03d', math.floor(now[2] / 1000))}
