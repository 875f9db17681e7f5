#pragma once

#include <string_view>

namespace keyload {

// Parse any bytes and abort if what was accepted breaks the parser's promises.
void FuzzAttachMessage(std::string_view packet);
void FuzzAttachTable(std::string_view bytes);
// What a client may send to a server: steps, each a u16 with a length and, as its highest bit, a flag, and so many
// bytes as a packet. With the flag the client reads what has come. Aborts if a lease is left, or the bookkeeping is
// wrong.
void FuzzAttachServer(std::string_view script);
// What a server may send to a client, in the same form; a step with the flag is a file that the next packet brings.
// Aborts if the client believes anything that leads out of what it maps.
void FuzzAttachClient(std::string_view script);

}  // namespace keyload
