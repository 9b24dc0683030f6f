# Installs everything: programs, man pages, completions, systemd units, and the C library with its
# header and pkg-config file.
#
#   make && sudo make install                  # into /usr/local; uninstall removes it all
#   make install PREFIX=$HOME/.local           # without root
#
# `broker/Makefile` (programs and units) and `client/c/Makefile` (the library) can be used alone.
# Packagers: DESTDIR, PREFIX, BINDIR, LIBDIR, INCLUDEDIR, MANDIR, STRIP (STRIP=: keeps symbols).

all install uninstall:
	$(MAKE) -C broker $@
	$(MAKE) -C client/c $@

.PHONY: all install uninstall
