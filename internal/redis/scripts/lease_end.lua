-- Ends a lease.
-- ARGV: holder. Returns 1.
redis.call('HDEL', leases, 'v:' .. ARGV[1], 'e:' .. ARGV[1])
return 1
