-- Ends a lease.
-- ARGV: holder. Returns 1.
redis.call('ZREM', ends, ARGV[1])
redis.call('HDEL', values, ARGV[1])
return 1
