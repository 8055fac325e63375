-- Returns the count and the entries behind an id, also while the server refuses writes.
-- KEYS: the count, the stream. ARGV: the id, the count's least life.
local count = redis.call('GET', KEYS[1])
if not count then return {} end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.pcall('PEXPIRE', KEYS[1], ARGV[2]) end
return {count, redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+')}
