-- Puts a message that nobody wanted back to the front.
-- ARGV: life, id, and what wakes takers. Returns 1.
if redis.call('ZREM', taken, ARGV[2]) == 1 then
  redis.call('LPUSH', waiting, ARGV[2])
  redis.call('PEXPIRE', waiting, ARGV[1])
  redis.pcall(ARGV[3], ARGV[4], ARGV[5])
end
return 1
