-- Writes the tiles of one entity, only over the state that the writer read.
--
-- KEYS[1]  the entity
-- ARGV     1 log offset of the state that was read, 0 for none  2 blob  3 expire_ms
-- Answer   1 written, 0 somebody else wrote meanwhile or has a newer lease
--
-- The blob holds the effects and the offset of the last log row in them, so both move together and
-- a row counts once. Its Python twin is `Tiles.add` (libs/common/features/tiles.py); this script
-- only decides whose result stands. Header: see libs/common/features/layout.py.

local HEADER = '<HHI4I8I8I8I4I4I8'
local old = redis.call('GETRANGE', KEYS[1], 0, 47)
local old_offset = 0
if #old == 48 then
  local _, _, flags, _, _, old_epoch, _, _, offset = struct.unpack(HEADER, old)
  local _, _, new_flags, _, _, epoch = struct.unpack(HEADER, ARGV[2])
  if epoch < old_epoch then return 0 end
  -- Another generation of the store: what it held is being written anew.
  if flags == new_flags then old_offset = offset end
end
if old_offset ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
