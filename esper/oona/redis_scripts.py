"""What the bus does inside Redis: one script an operation, each atomic and one round trip.

All keys carry one hash tag, so that they share a slot of a cluster; a script is given every key that it touches.

    {oona}.sequence     position of the newest envelope
    {oona}.places       event id -> "STREAM|ENTRY", as long as the entry is kept
    {oona}.sizes        stream -> bytes of its envelopes, counted when they are first asked for
    {oona}.dead         "GROUP|STREAM|ENTRY" -> "MS|BYTES": Unix milliseconds at which the group gave it up, its bytes
    {oona}.groups       group -> Unix milliseconds at which it asked last, noted once a minute
    {oona}.LANE.N       a stream for each lane and priority N; an entry's id is its position; e, ms and id are
                        the envelope, when it was stored and its event id
"""

from __future__ import annotations

# Shared by the scripts that look for entries.
_PLACES = """
local function place_of(places, event_id)
  local place = redis.call('HGET', places, event_id)
  if not place then return nil end
  local stream, entry = string.match(place, '^(.*)|(.*)$')
  return stream, entry
end
local function groups_of(stream)
  if redis.call('EXISTS', stream) == 0 then return {} end
  local found = {}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    found[#found + 1] = group
  end
  return found
end
local function position(entry) return tonumber(string.match(entry, '^(%d+)')) end
local function put_aside(dead, stream, group, entry, now_ms)
  redis.call('HSET', dead, group .. '|' .. stream .. '|' .. entry[1], now_ms .. '|' .. #entry[2][2])
  redis.call('XACK', stream, group, entry[1])
end
local function size_of(sizes, stream)
  local known = redis.call('HGET', sizes, stream)
  if known then return tonumber(known) end
  local size, start, page = 0, '-', nil
  repeat
    page = redis.call('XRANGE', stream, start, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do size = size + #entry[2][2] end
    if #page > 0 then start = '(' .. page[#page][1] end
  until #page < 1000
  redis.call('HSET', sizes, stream, size)
  return size
end
"""

# KEYS sequence, places, sizes, every stream. ARGV: now in ms, most entries and bytes of a lane, streams of a lane, then
# for each envelope its id, the number of its stream among all, whether it is exempt from the bounds, and its content.
# Gives position and newness of each; or, where a lane has no room and nothing is stored, the lane's number, its
# entries and bytes, and how many of each are to come.
PUBLISH = (
    _PLACES
    + """
local width = tonumber(ARGV[4])
local seen, bounded, further, bytes = {}, {}, {}, {}
for i = 5, #ARGV, 4 do
  local id, lane = ARGV[i], math.floor((tonumber(ARGV[i + 1]) - 1) / width)
  if not seen[id] and redis.call('HEXISTS', KEYS[2], id) == 0 then
    further[lane] = (further[lane] or 0) + 1
    bytes[lane] = (bytes[lane] or 0) + #ARGV[i + 3]
    bounded[lane] = bounded[lane] or ARGV[i + 2] ~= '1'
  end
  seen[id] = true
end
-- Exempt lanes are looked at too: what is counted on below must have been counted first.
for lane, is_bounded in pairs(bounded) do
  local entries, size = 0, 0
  for n = 1, width do
    local stream = KEYS[3 + lane * width + n]
    entries, size = entries + redis.call('XLEN', stream), size + size_of(KEYS[3], stream)
  end
  if is_bounded and (entries + further[lane] > tonumber(ARGV[2]) or size + bytes[lane] > tonumber(ARGV[3])) then
    return {lane, entries, size, further[lane], bytes[lane]}
  end
end
local last = redis.call('GET', KEYS[1])
if not last then
  last = 0
  for n = 4, #KEYS do
    if redis.call('EXISTS', KEYS[n]) == 1 then
      local info = redis.call('XINFO', 'STREAM', KEYS[n])
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = math.max(last, tonumber(string.match(info[i + 1], '^(%d+)'))) end
      end
    end
  end
end
last = tonumber(last)
local stored = {}
for i = 5, #ARGV, 4 do
  local id, stream = ARGV[i], KEYS[3 + tonumber(ARGV[i + 1])]
  local place = redis.call('HGET', KEYS[2], id)
  if place then
    stored[#stored + 1] = {tonumber(string.match(place, '|(%d+)')), 0}
  else
    last = last + 1
    local entry = string.format('%.0f-0', last)
    redis.call('XADD', stream, entry, 'e', ARGV[i + 3], 'ms', ARGV[1], 'id', id)
    redis.call('HSET', KEYS[2], id, stream .. '|' .. entry)
    redis.call('HINCRBY', KEYS[3], stream, #ARGV[i + 3])
    stored[#stored + 1] = {last, 1}
  end
end
redis.call('SET', KEYS[1], string.format('%.0f', last))
return stored
"""
)

# KEYS streams. ARGV: a position, limit. Gives entry and envelope of what stands in each stream after it.
READ = """
local found = {}
for _, stream in ipairs(KEYS) do
  for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'e' then found[#found + 1] = {entry[1], entry[2][i + 1]} end
    end
  end
end
return found
"""

# KEYS dead, groups, streams in the order of delivery. ARGV: group, consumer, limit, lease in ms, most deliveries, now
# in ms. Of each stream first what is due again, then what is new. Gives entry, envelope and attempt of each.
FETCH = (
    _PLACES
    + """
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, asked = {}, redis.call('HGET', KEYS[2], group)
if not asked or ARGV[6] - asked > 60000 then redis.call('HSET', KEYS[2], group, ARGV[6]) end
for n = 3, #KEYS do
  local stream = KEYS[n]
  local known = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
  local cursor = '0-0'
  while known.err and #found < limit do
    local due = redis.call('XAUTOCLAIM', stream, group, consumer, ARGV[4], cursor, 'COUNT', limit - #found)
    for _, entry in ipairs(due[2]) do
      local attempt = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)[1][4]
      if attempt > tonumber(ARGV[5]) then
        put_aside(KEYS[1], stream, group, entry, ARGV[6])
      else
        found[#found + 1] = {entry[1], entry[2][2], attempt}
      end
    end
    cursor = due[1]
    if cursor == '0-0' then break end
  end
  if #found < limit then
    local fresh = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #found, 'STREAMS', stream, '>')
    for _, entry in ipairs(fresh and fresh[1][2] or {}) do found[#found + 1] = {entry[1], entry[2][2], 1} end
  end
end
return found
"""
)

# KEYS places, every stream. ARGV: group, ids.
ACKNOWLEDGE = (
    _PLACES
    + """
for i = 2, #ARGV do
  local stream, entry = place_of(KEYS[1], ARGV[i])
  if stream then redis.call('XACK', stream, ARGV[1], entry) end
end
"""
)

# KEYS places, every stream. ARGV: group, lease and first wait in ms, nobody, ids. Each wait is twice the one before it,
# a lease at most.
REJECT = (
    _PLACES
    + """
local lease = tonumber(ARGV[2])
for i = 5, #ARGV do
  local stream, entry = place_of(KEYS[1], ARGV[i])
  local held = stream and redis.pcall('XPENDING', stream, ARGV[1], entry, entry, 1)[1]
  if held then
    local wait = math.min(lease, tonumber(ARGV[3]) * 2 ^ (held[4] - 1))
    redis.call('XCLAIM', stream, ARGV[1], ARGV[4], 0, entry, 'IDLE', lease - wait, 'JUSTID')
  end
end
"""
)

# KEYS every stream. ARGV: group, consumer, lease in ms, nobody.
RELEASE = """
for _, stream in ipairs(KEYS) do
  local held = redis.pcall('XPENDING', stream, ARGV[1], '-', '+', 100000, ARGV[2])
  if not held.err then
    for _, each in ipairs(held) do
      redis.call('XCLAIM', stream, ARGV[1], ARGV[4], 0, each[1], 'IDLE', ARGV[3], 'JUSTID')
    end
    redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], ARGV[2])
  end
end
"""

# KEYS streams of one lane. Gives what the slowest group has not handled.
DEPTH = (
    _PLACES
    + """
local ahead = {}
for _, stream in ipairs(KEYS) do
  for _, group in ipairs(groups_of(stream)) do
    local lag = group['lag']
    if not lag then lag = #redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], '+') end
    ahead[group['name']] = (ahead[group['name']] or 0) + group['pending'] + lag
  end
end
local most = 0
for _, count in pairs(ahead) do most = math.max(most, count) end
return most
"""
)

# KEYS groups, every stream. ARGV: now in ms, and the time before which a group must have asked last to be forgotten.
# Gives each such group and how many entries it had not handled. A group that was never noted counts as seen now.
FORGET_GROUPS = (
    _PLACES
    + """
local lost = {}
for n = 2, #KEYS do
  for _, group in ipairs(groups_of(KEYS[n])) do
    local name = group['name']
    local asked = redis.call('HGET', KEYS[1], name)
    if not asked then
      redis.call('HSET', KEYS[1], name, ARGV[1])
    elseif tonumber(asked) < tonumber(ARGV[2]) then
      local lag = group['lag']
      if not lag then lag = #redis.call('XRANGE', KEYS[n], '(' .. group['last-delivered-id'], '+') end
      lost[name] = (lost[name] or 0) + group['pending'] + lag
      redis.call('XGROUP', 'DESTROY', KEYS[n], name)
    end
  end
end
local found = {}
for name, count in pairs(lost) do
  redis.call('HDEL', KEYS[1], name)
  found[#found + 1] = name
  found[#found + 1] = count
end
return found
"""
)

# KEYS sizes, streams of one lane. Gives entries and bytes of the lane.
HELD = (
    _PLACES
    + """
local entries, size = 0, 0
for n = 2, #KEYS do entries, size = entries + redis.call('XLEN', KEYS[n]), size + size_of(KEYS[1], KEYS[n]) end
return {entries, size}
"""
)

# KEYS places, dead, sizes, one stream. ARGV: event times before this in ms are old, so many of the oldest and so many
# bytes of them are too much anyway, first entry to look at, how many. Removes what every group was given and none
# still needs. Gives how many and how many bytes went, and the next entry to look at, empty at the end.
TRIM = (
    _PLACES
    + """
local stream, surplus, surplus_bytes, count = KEYS[4], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local groups, last, needed = groups_of(stream), math.huge, {}
for _, group in ipairs(groups) do
  last = math.min(last, position(group['last-delivered-id']))
  for _, held in ipairs(redis.call('XPENDING', stream, group['name'], '-', '+', 100000)) do needed[held[1]] = true end
end
local gone, bytes, start = 0, 0, ''
local entries = redis.call('XRANGE', stream, ARGV[4], '+', 'COUNT', count)
if #entries == count then start = '(' .. entries[#entries][1] end
for _, entry in ipairs(entries) do
  local id, is_old = entry[1], tonumber(entry[2][4]) < tonumber(ARGV[1])
  if position(id) > last or not (is_old or gone < surplus or bytes < surplus_bytes) then
    start = ''
    break
  end
  local is_dead = false
  for _, group in ipairs(groups) do
    is_dead = is_dead or redis.call('HEXISTS', KEYS[2], group['name'] .. '|' .. stream .. '|' .. id) == 1
  end
  if not needed[id] and not is_dead then
    redis.call('XDEL', stream, id)
    redis.call('HDEL', KEYS[1], entry[2][6])
    gone, bytes = gone + 1, bytes + #entry[2][2]
  end
end
if bytes > 0 and redis.call('HEXISTS', KEYS[3], stream) == 1 then redis.call('HINCRBY', KEYS[3], stream, -bytes) end
return {gone, bytes, start}
"""
)

# KEYS dead, places, every stream. ARGV: group, nobody, 1 to deliver again and 0 to forget, ids.
# Gives those that were dead letters.
SETTLE_DEAD = (
    _PLACES
    + """
local found = {}
for i = 4, #ARGV do
  local stream, entry = place_of(KEYS[2], ARGV[i])
  if stream and redis.call('HDEL', KEYS[1], ARGV[1] .. '|' .. stream .. '|' .. entry) == 1 then
    found[#found + 1] = ARGV[i]
    if ARGV[3] == '1' then
      local again = {'IDLE', 1000000000, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID'}
      redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, entry, unpack(again))
    end
  end
end
return found
"""
)
