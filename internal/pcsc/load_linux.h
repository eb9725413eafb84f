// KEYWARD_NO_LIBRARY is what a call returns without a library. It is none of winscard.h's codes.
#define KEYWARD_NO_LIBRARY ((LONG)0x80104B57)
