#!/bin/sh
# rspamd 3.4 (Debian's rspamd_3.4-1_amd64.deb), lualib/plugins/dmarc.lua: a DMARC record with a blank before the semicolon
# behind its version. dmarc-sep is *WSP ";" *WSP (RFC 7489 section 6.4, RFC 9989 section 4.8), so that such a record says
# what it says without the blank. The grammar takes the blank alone for a separator, finds no tag at the semicolon, and
# stops: the record is valid and has no tags. Its policy is none, and its rua= is not seen.
#
# Seen: "v=DMARC1; p=reject" is reject, "v=DMARC1 ; p=reject" is none.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for package in rspamd=3.4-1 lua5.1=5.1.5-9 lua-lpeg=1.0.2-2; do
  apt-get download -q "$package" >/dev/null 2>&1
done
for package in *.deb; do dpkg -x "$package" root; done
cat >show.lua <<'L'
package.preload.rspamd_logger = function() return {} end
package.preload.lua_util = function() return { debugm = function() end } end
local dmarc = dofile("root/usr/share/rspamd/lualib/plugins/dmarc.lua")
for _, record in ipairs({ "v=DMARC1; p=reject", "v=DMARC1 ; p=reject" }) do
  local good, found = dmarc.dmarc_check_record(nil, record, false)
  print(record, good, found.dmarc_policy)
end
L
export LUA_CPATH="$work/root/usr/lib/x86_64-linux-gnu/lua/5.1/?.so"
LD_LIBRARY_PATH=root/usr/lib/x86_64-linux-gnu root/usr/bin/lua5.1 show.lua | tee out
printf 'v=DMARC1; p=reject\ttrue\treject\nv=DMARC1 ; p=reject\ttrue\tnone\n' | cmp - out
