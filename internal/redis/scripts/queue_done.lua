-- Removes a message that was handed over.
-- ARGV: life, id. Returns 1.
redis.call('ZREM', taken, ARGV[2])
redis.call('HDEL', messages, ARGV[2])
return 1
