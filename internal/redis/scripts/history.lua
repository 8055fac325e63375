-- read_count takes a count apart, and returns nothing if it is none. Older versions wrote
-- neither nonce nor start, and before that no bytes.
local function read_count(count)
  local epoch, number, bytes, start = string.match(count or '', '^(%w+) (%d+) (%d+) %w+ (%w*)$')
  if not epoch then epoch, number, bytes = string.match(count or '', '^(%w+) (%d+) ?(%d*)$') end
  if epoch and #number <= 16 then return epoch, number, bytes, start or '' end
end
