#!/bin/sh
# Makes a root file system out of packages that were only unpacked: no maintainer script has run. Argument: the root.
set -eu
cd "$1"

# Some packages still ship files in /bin and /lib; without the merge the loader and `sh` are not where programs look.
for name in bin sbin lib lib64; do
    [ -L "$name" ] && continue
    if [ -d "$name" ]; then
        mkdir -p "usr/$name"
        cp -an "$name/." "usr/$name/"
        rm -rf "$name"
    fi
    if [ -d "usr/$name" ]; then ln -s "usr/$name" "$name"; fi
done

# What the scripts of base-passwd, dash, mawk and ca-certificates would have done.
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
ln -sf dash usr/bin/sh
[ ! -e usr/bin/mawk ] || ln -sf mawk usr/bin/awk
if [ -d usr/share/ca-certificates ]; then
    mkdir -p etc/ssl/certs
    find usr/share/ca-certificates -name '*.crt' | sort | xargs cat >etc/ssl/certs/ca-certificates.crt
fi
ldconfig -r .

rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian var/lib/apt/lists/* var/cache/apt/*
