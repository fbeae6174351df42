-- Writes one pushed vector if it is newer; its Python twin is `is_newer` in domain/vectors.py.
--
-- KEYS[1]  the vector
-- ARGV     1 blob  2 expire_ms
-- Answer   1 written, 0 the stored one is as new or newer
--
-- Newer means larger (event_ms, microseconds below, log offset): an equal time with a later arrival
-- wins, a replay changes nothing. Header: see libs/common/features/layout.py.

local HEADER = '<HHI4I8I8I8I4I4I8'
local blob = ARGV[1]
local old = redis.call('GETRANGE', KEYS[1], 0, 47)
if #old == 48 then
  local magic, _, _, old_ms, _, _, _, old_us, old_offset = struct.unpack(HEADER, old)
  local _, _, _, new_ms, _, _, _, new_us, new_offset = struct.unpack(HEADER, blob)
  if magic == 0x4647 then
    if new_ms < old_ms then return 0 end
    if new_ms == old_ms and new_us < old_us then return 0 end
    if new_ms == old_ms and new_us == old_us and new_offset <= old_offset then return 0 end
  end
end
redis.call('SET', KEYS[1], blob, 'PX', ARGV[2])
return 1
