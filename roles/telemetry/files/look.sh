# What the role asks a device before it changes anything: one `name=value` a line. Writes nothing.
# usage: look.sh KIT PACKAGES UNITS    for sh -c, with a word for $0; the last two are lists in one word
kit=$1 packages=$2 units=$3
echo "system=$(. /etc/os-release && echo "$ID $VERSION_ID")"
active='' missing='' lacking='' there=''
for name in prometheus prometheus-node-exporter; do
  systemctl is-active --quiet "$name.service" && active="$active $name.service"
done
for name in $packages; do
  case $(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null) in installed) continue ;; esac
  missing="$missing $name"
  [ -z "$kit" ] || ls "$kit/${name}_"*.deb >/dev/null 2>&1 || lacking="$lacking $name"
done
for name in $units; do
  [ ! -e "/etc/systemd/system/$name.service" ] || there="$there $name"
done
printf '%s\n' "active=${active# }" "missing=${missing# }" "lacking=${lacking# }" "units=${there# }"
