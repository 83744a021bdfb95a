//! Can an interface be offloaded, and if not, why?
