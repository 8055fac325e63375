-- Numbers a publication, keeps it, and publishes it.
--
-- KEYS: the count, the stream, and perhaps one that remembers the publication by its Once.
-- ARGV:
--   1  nonce
--   2  payload
--   3  how many publications are kept
--   4  the life of the stream
--   5  the life of the count
--   6  the life of the third key
--   7  PUBLISH or SPUBLISH
--   8  channel
--   9  how many bytes are kept at most, or 0
--
-- Returns the number. An error says that nothing happened: a server that refuses writes
-- refuses the first of them, and one that refuses the publication (to this user, or
-- SPUBLISH as unknown) has not kept it yet. A count that is none, and a stream that is ahead
-- of it, begin anew.
local sent = KEYS[3] and read_string(KEYS[3])
if sent then return sent end
local before = read_string(KEYS[1])
local epoch, number, bytes, start = read_count(before)
if not epoch then
  epoch, number, bytes, start = ARGV[1], 0, 0, ''
  redis.call('DEL', KEYS[2])
end
number = string.format('%.0f', number + 1)
local count = epoch .. ' ' .. number
local now = redis.call('TIME')
now = now[1] .. string.format('%03d', math.floor(now[2] / 1000))
local message = '\3' .. count .. ' ' .. ARGV[1] .. ' ' .. now .. ' ' .. ARGV[2]
bytes = (tonumber(bytes) or 0) + #ARGV[2]
local function save()
  redis.call('SET', KEYS[1], count .. ' ' .. string.format('%.0f', bytes) .. ' ' .. ARGV[1] .. ' ' .. start, 'PX', ARGV[5])
end
save()
local published = redis.pcall(ARGV[7], ARGV[8], message)
if type(published) == 'table' and published.err then
  redis.call('SET', KEYS[1], before or '', 'PX', ARGV[5])
  return published
end
local function add() return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], number .. '-0', 'm', message) end
if type(add()) == 'table' then
  redis.call('DEL', KEYS[2])
  add()
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if KEYS[3] then redis.call('SET', KEYS[3], number, 'PX', ARGV[6]) end
local most = tonumber(ARGV[9])
if most > 0 and bytes > most then
  -- Ranges that leave their end out came with Redis 6.2: a piece ends before the last entry
  -- of the one before. Ids other than n-0 are none of ours.
  local function before(id)
    local number, sequence = string.match(id, '^(%d+)-(%d+)$')
    if sequence ~= '0' then return number .. '-0' end
    return string.format('%.0f', number - 1)
  end
  local kept, newest, more = 0, '+', true
  bytes = 0
  while more do
    local entries = redis.call('XREVRANGE', KEYS[2], newest, '-', 'COUNT', 16)
    more = #entries > 0
    for _, entry in ipairs(entries) do
      local head = select(2, string.find(entry[2][2], '^\3%w+ %d+ %w+ %d+ ')) or 0
      local size = bytes + #entry[2][2] - head
      more = more and (kept == 0 or size <= most * 0.75)
      if more then bytes, kept, newest = size, kept + 1, before(entry[1]) end
    end
  end
  redis.call('XTRIM', KEYS[2], 'MAXLEN', kept)
  save()
end
return number
