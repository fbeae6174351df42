-- Moves the progress of one partition, only from where the writer believes it to be.
--
-- KEYS[1]  features:applied:<partition>
-- ARGV     1 expected text  2 new text; both `<generation>:<offset>`, decimal offset
-- Answer   1 moved, 0 the store was emptied or rolled back meanwhile
--
-- The generation is random and made when the key is: after a flush an old expectation never fits,
-- so effects that the flush took away are never counted as applied.
-- Its Python twin is one comparison and is not written out.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
