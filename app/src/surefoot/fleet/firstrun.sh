#!/bin/sh
# The first boot of Raspberry Pi OS bookworm: run once, as root, by systemd.run= before anything else; then the Pi
# restarts. `surefoot device seed` puts the values above the steps. A step that fails is named in the log and the
# others still run: a Pi without a screen should be reachable by what did work.
set -u
# -- values --
LOG=$BOOT/surefoot-firstrun.log

failed() { # never what was being written: the log is on a partition that every user can read
  echo "failed: $1" >>"$LOG"
}

name_host() {
  echo "$HOST" >/etc/hostname &&
    sed -i '/^127\.0\.1\.1[[:space:]]/d' /etc/hosts &&
    printf '127.0.1.1\t%s\n' "$HOST" >>/etc/hosts
}

make_user() {
  if [ -x /usr/lib/userconf-pi/userconf ]; then # renames the image's first user and ends its dialog
    /usr/lib/userconf-pi/userconf "$LOGIN" "$PASSWORD_HASH"
  elif ! id -u "$LOGIN" >/dev/null 2>&1; then
    useradd --create-home --shell /bin/bash "$LOGIN"
    [ -z "$PASSWORD_HASH" ] || printf '%s:%s\n' "$LOGIN" "$PASSWORD_HASH" | chpasswd -e
  fi
  if [ -z "$PASSWORD_HASH" ]; then
    passwd --quiet --lock "$LOGIN"
  fi
  id -u "$LOGIN" >/dev/null
}

allow_sudo() {
  install -d -m 0755 /etc/sudoers.d &&
    printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$LOGIN" >/etc/sudoers.d/010_surefoot &&
    chmod 0440 /etc/sudoers.d/010_surefoot
}

authorise_keys() {
  home=$(getent passwd "$LOGIN" | cut -d: -f6) &&
    group=$(id -g "$LOGIN") &&
    install -d -m 0700 -o "$LOGIN" -g "$group" "$home/.ssh" &&
    printf '%s\n' "$AUTHORISED_KEYS" >"$home/.ssh/authorized_keys" &&
    chown "$LOGIN:$group" "$home/.ssh/authorized_keys" &&
    chmod 0600 "$home/.ssh/authorized_keys"
}

place_host_key() {
  systemctl --quiet disable regenerate_ssh_host_keys # it would replace the key that the operator expects
  rm -f /etc/ssh/ssh_host_*_key*
  (umask 077 && printf '%s\n' "$HOST_KEY" >/etc/ssh/ssh_host_ed25519_key) &&
    printf '%s\n' "$HOST_KEY_PUBLIC" >/etc/ssh/ssh_host_ed25519_key.pub
}

start_ssh() {
  install -d -m 0755 /etc/ssh/sshd_config.d &&
    printf 'PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin no\n' \
      >/etc/ssh/sshd_config.d/10-surefoot.conf &&
    systemctl --quiet enable ssh
}

set_time_zone() {
  [ -f "/usr/share/zoneinfo/$TIME_ZONE" ] &&
    ln -sf "/usr/share/zoneinfo/$TIME_ZONE" /etc/localtime &&
    echo "$TIME_ZONE" >/etc/timezone
}

connect() { # NAME SETTINGS, for NetworkManager, which ignores files that others can read
  install -d -m 0700 /etc/NetworkManager/system-connections &&
    (umask 077 && printf '%s\n' "$2" >"/etc/NetworkManager/system-connections/$1.nmconnection")
}

unblock_wifi() { # the image comes with the radio off until a country is known, which the kernel command line says
  for switch in /var/lib/systemd/rfkill/*:wlan; do
    [ ! -e "$switch" ] || echo 0 >"$switch" || return 1
  done
}

size_root() {
  install -d -m 0755 /usr/local/sbin &&
    printf '%s\n' "$ROOT_SIZE_SCRIPT" >/usr/local/sbin/surefoot-root-size &&
    chmod 0755 /usr/local/sbin/surefoot-root-size &&
    /usr/local/sbin/surefoot-root-size "$ROOT_GIB" >>"$LOG" 2>&1
}

name_host || failed "the host's name"
make_user || failed "the user"
allow_sudo || failed "sudo"
authorise_keys || failed "the authorised keys"
place_host_key || failed "the host key"
start_ssh || failed "ssh"
set_time_zone || failed "the time zone"
[ -z "$WIRED" ] || connect surefoot-wired "$WIRED" || failed "the wired network"
[ -z "$WIFI" ] || { connect surefoot-wifi "$WIFI" && unblock_wifi; } || failed "Wi-Fi"
size_root || failed "the size of the root"
rm -f "$BOOT/firstrun.sh" # it holds secrets
sed -i 's| systemd\.[^ ]*||g' "$BOOT/cmdline.txt"
sync
exit 0
