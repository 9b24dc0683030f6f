/*
 * Prints every register of ringshim.h with its offset, and the constants. fifo.rs compares every
 * line with the Rust structs.
 */
#include "ringshim.h"
#include <stdio.h>

#define SIZE(s) printf(#s " %zu\n", sizeof(struct ringshim_##s))
#define AT(s, f) printf(#s "." #f " %zu\n", offsetof(struct ringshim_##s, f))
#define VALUE(v) printf(#v " %#x\n", (unsigned)RINGSHIM_##v)

int main(void)
{
	SIZE(identity);
	AT(identity, magic); AT(identity, version); AT(identity, device_id); AT(identity, features);
	AT(identity, fifo_offset); AT(identity, fifo_bytes); AT(identity, max_datagram);
	AT(identity, channels); AT(identity, rate);
	SIZE(status);
	AT(status, status); AT(status, interrupt_status); AT(status, ready); AT(status, time_low);
	AT(status, time_high);
	SIZE(control);
	AT(control, control); AT(control, interrupt_mask); AT(control, interrupt_clear);
	AT(control, doorbell);
	SIZE(channel);
	AT(channel, producer); AT(channel, produced); AT(channel, lost); AT(channel, lost_bytes);
	AT(channel, consumer); AT(channel, next_sequence); AT(channel, lost_reported);
	SIZE(registers);
	AT(registers, identity); AT(registers, status); AT(registers, control);
	AT(registers, channel);
	VALUE(MAGIC); VALUE(VERSION); VALUE(FIFO_MIN); VALUE(FIFO_MAX); VALUE(CHANNELS_MAX);
	VALUE(REGISTERS); VALUE(HAS_INTERRUPT); VALUE(HAS_TIME); VALUE(HAS_DATE); VALUE(IS_RUNNING);
	VALUE(IS_RESETTING); VALUE(DO_RUN); VALUE(DO_RESET); VALUE(IRQ_DATA); VALUE(MARK);
	return 0;
}
