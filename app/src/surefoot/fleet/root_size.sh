#!/bin/sh
# Grows the root to GIB and no further: what is left of the disk is for /data.
# usage: root_size.sh GIB [PARTITION]      default: the partition that is mounted at /
# Never shrinks. A second run changes nothing. Needs util-linux (findmnt, partx), sfdisk and resize2fs.
set -eu
gib=$1

fail() {
  echo "root-size: $1" >&2
  exit 1
}

if [ $# -gt 1 ]; then
  name=$(basename "$2")
else # by number, because a kernel that was started without an initramfs calls it /dev/root
  name=$(basename "$(readlink -f "/sys/dev/block/$(findmnt -n -o MAJ:MIN / | tr -d ' ')")")
fi
sys=$(readlink -f "/sys/class/block/$name") || fail "no block device $name"
[ -r "$sys/partition" ] || fail "$name is not a partition"
number=$(cat "$sys/partition")
disk=/dev/$(basename "$(dirname "$sys")")
wanted=$((gib * 2097152)) # sysfs counts in sectors of 512 bytes, whatever the disk's are

size=$(cat "$sys/size")
if [ "$size" -gt "$wanted" ]; then
  fail "$name already has $((size / 2097152)) GiB, more than the $gib wanted: something grew it before this"
fi
if [ "$size" -lt "$wanted" ]; then
  # An image copied onto a larger disk has its second GPT header in the middle of it.
  if [ "$(blkid -p -o value -s PTTYPE "$disk")" = gpt ]; then
    sfdisk --quiet --no-reread --no-tell-kernel --force --relocate gpt-bak-std "$disk"
  fi
  echo ", ${gib}GiB" | sfdisk --quiet --no-reread --no-tell-kernel --force -N "$number" "$disk" ||
    fail "no room for $gib GiB on $disk"
  # The kernel will not read the table of a disk in use anew; it does take the size of one partition.
  partx --update --nr "$number" "$disk"
fi
[ "$(cat "$sys/size")" = "$wanted" ] || fail "$name has $(cat "$sys/size") sectors, expected $wanted"
resize2fs "/dev/$name"
