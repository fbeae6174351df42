-- Writes records into one ring; its Python twin is services/features/domain/ring.py.
--
-- KEYS[1]  the ring
-- ARGV     1 schema_id  2 record bytes  3 keep_ms  4 records_max  5 expire_ms
--          6 written_ms  7 epoch  8 partition  9 offset  10 records, concatenated
-- Answer   {applied, duplicates, too_late}
--
-- Layout, little-endian (libs/common/features/layout.py):
--   header 48 B  magic u16, schema_id u16, flags u32, event_ms u64, written_ms u64, epoch u64,
--                partition u32, pad u32, offset u64
--   past   40 B  n u64, sum i64, sq_hi u64, sq_lo u64, last_ms u64
--   record       event_ms u64, value i64, tag u64, attrs i32 ...; ascending by event_ms, then arrival
--
-- Numbers stay exact in doubles: |value| < 2^40, times < 2^53. The tag is compared as bytes.
-- A record that the ring holds, or that is older than what it keeps, changes nothing: replays and
-- reordering within the lateness bound are harmless.

local HEADER = '<HHI4I8I8I8I4I4I8'
local PAST = '<I8i8I8I8I8'
local MAGIC, PREFIX, TWO16, TWO32 = 0x4647, 88, 65536, 4294967296

local schema_id, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local keep_ms, records_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local epoch, offset = tonumber(ARGV[7]), tonumber(ARGV[9])
local incoming = ARGV[10]

local newest, body = 0, ''
local n, sum, sq_hi, sq_lo, last_ms = 0, 0, 0, 0, 0
local blob = redis.call('GET', KEYS[1])
if blob then
  if #blob < PREFIX or (#blob - PREFIX) % size ~= 0 then
    return redis.error_reply('UNREADABLE ring')
  end
  local magic, schema, _, event_ms, _, old_epoch, _, _, old_offset = struct.unpack(HEADER, blob)
  if magic ~= MAGIC or schema ~= schema_id then
    return redis.error_reply('UNREADABLE ring')
  end
  newest = event_ms
  epoch, offset = math.max(epoch, old_epoch), math.max(offset, old_offset)
  n, sum, sq_hi, sq_lo, last_ms = struct.unpack(PAST, blob, 49)
  body = string.sub(blob, PREFIX + 1)
end

-- Records that come in order wait in a table: appending each to a long ring would copy it each time.
local base, tail = #body / size, {}

local function record_at(index)
  if index >= base then return tail[index - base + 1] end
  return string.sub(body, index * size + 1, (index + 1) * size)
end

local function time_at(index)
  if index >= base then return (struct.unpack('<I8', tail[index - base + 1])) end
  return (struct.unpack('<I8', body, index * size + 1))
end

local count = base
local applied, duplicates, too_late = 0, 0, 0
for start = 1, #incoming, size do
  local record = string.sub(incoming, start, start + size - 1)
  local at_ms = struct.unpack('<I8', record)
  if at_ms <= math.max(newest - keep_ms, last_ms) then
    too_late = too_late + 1
  else
    local tag = string.sub(record, 17, 24)
    local place, index, is_known = count, count - 1, false
    while index >= 0 do
      local other_ms = time_at(index)
      if other_ms < at_ms then break end
      if other_ms > at_ms then
        place = index
      elseif string.sub(record_at(index), 17, 24) == tag then
        is_known = true
        break
      end
      index = index - 1
    end
    if is_known then
      duplicates = duplicates + 1
    else
      if place >= base then
        table.insert(tail, place - base + 1, record)
      else
        body = string.sub(body, 1, place * size) .. record .. string.sub(body, place * size + 1)
        base = base + 1
      end
      count = count + 1
      newest = math.max(newest, at_ms)
      applied = applied + 1
    end
  end
end
if applied == 0 then
  return {0, duplicates, too_late}
end

body = body .. table.concat(tail)
base = count

-- Squares in 16-bit limbs: value = v2 * 2^32 + v1 * 2^16 + v0, every product below 2^53.
local function add_square(value)
  local v0 = value % TWO16
  local v1 = math.floor(value / TWO16) % TWO16
  local v2 = math.floor(value / TWO32)
  local cross = 2 * v0 * v1
  local lo = sq_lo + v0 * v0 + (cross % TWO16) * TWO16
  sq_hi = sq_hi + math.floor(lo / TWO32) + math.floor(cross / TWO16)
    + v1 * v1 + 2 * v0 * v2 + 2 * v1 * v2 * TWO16 + v2 * v2 * TWO32
  sq_lo = lo % TWO32
end

local gone = 0
while gone < count and (time_at(gone) <= newest - keep_ms or count - gone > records_max) do
  local at_ms, value = struct.unpack('<I8i8', body, gone * size + 1)
  n, sum, last_ms = n + 1, sum + value, math.max(last_ms, at_ms)
  add_square(math.abs(value))
  gone = gone + 1
end

local header = struct.pack(HEADER, MAGIC, schema_id, 0, newest, tonumber(ARGV[6]), epoch,
  tonumber(ARGV[8]), 0, offset)
local past = struct.pack(PAST, n, sum, sq_hi, sq_lo, last_ms)
redis.call('SET', KEYS[1], header .. past .. string.sub(body, gone * size + 1), 'PX', ARGV[5])
return {applied, duplicates, too_late}
