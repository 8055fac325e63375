-- read_count takes a count apart, and returns nothing if it is none. Older versions wrote
-- neither nonce nor start, and before that no bytes.
local function read_count(count)
  local epoch, number, bytes, start = string.match(count or '', '^(%w+) (%d+) (%d+) %w+ (%w*)$')
  if not epoch then epoch, number, bytes = string.match(count or '', '^(%w+) (%d+) ?(%d*)$') end
  if epoch and #number <= 16 then return epoch, number, bytes, start or '' end
end
-- read_string returns what a key has, and nil if it has nothing, or is none of ours: of
-- another type. SET writes over that.
local function read_string(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' and string.find(value.err, 'WRONGTYPE', 1, true) then return nil end
  if type(value) == 'table' then return redis.call('GET', key) end -- which fails as before
  return value or nil
end
